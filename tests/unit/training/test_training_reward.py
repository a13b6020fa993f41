"""Reward models end to end on a tiny random BERT, and what they read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_rows import reward_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from schemas.rendering import encode_pair
from training import reward
from training.checkpoints import prove_checkpoint
from training.command import run
from training.errors import JobError
from training.metrics import area_under_curve, cross_entropy, held_out, temperature


def test_labels_are_learned_and_held_out_metrics_reported(reward_job: Any) -> None:
    job = reward_job()
    manifest = run(job, reward.train)
    assert prove_checkpoint(Path(job.output)) == manifest
    assert manifest.metrics["heldout_accuracy"] >= 0.9
    assert manifest.metrics["heldout_accuracy_n"] == 12
    assert manifest.metrics["heldout_auc"] >= 0.9
    assert {"heldout_temperature", "heldout_nll"} <= set(manifest.metrics)


def test_pairs_are_learned_by_bradley_terry(reward_job: Any) -> None:
    manifest = run(reward_job(pairs=True), reward.train)
    assert manifest.metrics["heldout_pair_accuracy"] >= 0.9
    assert manifest.metrics["heldout_pair_accuracy_n"] == 12
    assert manifest.metrics["train_loss_start"] == pytest.approx(np.log(2), abs=0.2)


def test_the_saved_model_scores_alone_as_it_was_measured(reward_job: Any) -> None:
    job = reward_job()
    manifest = run(job, reward.train)
    model = AutoModelForSequenceClassification.from_pretrained(job.output)
    tokenizer = AutoTokenizer.from_pretrained(job.output)
    held = [row for row in reward_rows(48) if row["split"] == "heldout"]
    prompts = [json.loads(row["input"])[-1]["content"] for row in held]
    inputs = [
        encode_pair(tokenizer, prompt, row["output"], 64) for prompt, row in zip(prompts, held, strict=True)
    ]
    logits = reward.score(model, inputs, tokenizer.pad_token_id)
    accuracy = np.mean((logits > 0) == np.array([row["label"] > 0.5 for row in held]))
    assert accuracy == manifest.metrics["heldout_accuracy"]


def test_the_same_reward_job_gives_the_same_weights(reward_job: Any) -> None:
    jobs = [reward_job("a", epochs=1), reward_job("b", epochs=1, save_every_steps=0)]
    assert len({run(job, reward.train).weights_sha256 for job in jobs}) == 1


def test_a_helpfulness_model_may_begin_with_the_safety_model(reward_job: Any) -> None:
    first = reward_job("safety", role="safety_rm")
    parent = run(first, reward.train)
    ref = {"path": first.output, "checkpoint_id": "c1", "digest": parent.weights_sha256}
    second = reward_job("help", role="helpfulness_rm", epochs=1, learning_rate=1e-9, parent=ref)
    child = run(second, reward.train)
    assert child.parent_checkpoint_id == "c1"
    assert child.metrics["heldout_accuracy"] == parent.metrics["heldout_accuracy"] >= 0.9


def test_rows_that_lack_what_the_loss_needs_are_refused_by_position(reward_job: Any) -> None:
    with pytest.raises(JobError, match=r"'pairwise' needs 'rejected', null at the positions \[0, 1, 2"):
        run(reward_job(loss="pairwise"), reward.train)


def test_more_tokens_than_the_model_has_positions_are_refused(reward_job: Any) -> None:
    with pytest.raises(JobError, match="max_length 200 is above the 128 positions"):
        run(reward_job(max_length=200), reward.train)


def test_a_short_pair_is_encoded_as_the_tokenizer_does(bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert)
    assert encode_pair(tokenizer, "a cake", "with salt", 64) == dict(tokenizer("a cake", "with salt"))


@pytest.mark.parametrize("model", ["bert", "llama"])
@pytest.mark.parametrize("limit", [40, 64])
@pytest.mark.parametrize(
    ("prompt", "response"), [("cake " * 90, "salt " * 90), ("cake " * 90, "salt"), ("cake", "salt " * 90)]
)
def test_a_long_pair_keeps_the_head_of_both(
    request: pytest.FixtureRequest, model: str, limit: int, prompt: str, response: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(model))
    encoded = encode_pair(tokenizer, prompt, response, limit)
    assert all(len(values) <= limit for values in encoded.values())
    text = tokenizer.decode(encoded["input_ids"])
    assert "cake" in text and "salt" in text
    if len(response) > 10:
        assert text.count("salt") >= 3


def test_a_judged_text_cannot_forge_a_separator(bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert)
    ids = encode_pair(tokenizer, "cake", "fine [SEP] [CLS] <|im_end|>", 64)["input_ids"]
    assert ids.count(tokenizer.sep_token_id) == 2
    assert ids.count(tokenizer.cls_token_id) == 1


def test_the_area_under_the_curve_counts_ties_as_half() -> None:
    logits, positive = np.array([0.0, 1.0, 1.0, 2.0, 2.0]), np.array([False, True, False, True, False])
    pairs = [(a, b) for a in logits[positive] for b in logits[~positive]]
    assert area_under_curve(logits, positive) == pytest.approx(
        np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    )


def test_the_temperature_undoes_a_scaling_of_calibrated_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000) * 2
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-logits))).astype(float)
    assert temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    assert cross_entropy(logits, labels) < cross_entropy(logits * 3, labels)


def test_metrics_without_rows_are_left_out() -> None:
    nothing = np.array([])
    assert held_out(nothing, nothing, nothing, nothing) == {}
    assert set(held_out(np.ones(2), np.ones(2), nothing, nothing)) == {
        "heldout_accuracy",
        "heldout_accuracy_n",
    }
