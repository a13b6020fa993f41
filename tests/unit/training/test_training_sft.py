"""Supervised fine-tuning end to end on a tiny random Llama."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from training_rows import ask, sft_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.manifests import CHECKPOINT_FILE, parse_messages, sft_example_sha256, weights_sha256
from schemas.rendering import render_example
from training import sft
from training.checkpoints import prove_checkpoint
from training.command import run
from training.errors import DivergedError, JobError, ProofError


def test_a_job_yields_a_checkpoint_that_proves_right_and_learned(sft_job: Any) -> None:
    job = sft_job(epochs=6)
    manifest = run(job, sft.train)
    assert prove_checkpoint(Path(job.output)) == manifest
    assert manifest.metrics["train_loss_end"] < manifest.metrics["train_loss_start"] - 0.1
    assert manifest.metrics["steps"] == 24
    assert manifest.parent_checkpoint_id is None
    assert not list(Path(job.output).parent.glob("*.work")), "scratch is removed"


def test_the_same_job_twice_gives_the_same_weights_whatever_saves_and_paths(sft_job: Any) -> None:
    one, two = sft_job("one"), sft_job("two", save_every_steps=0)
    first, second = run(one, sft.train), run(two, sft.train)
    assert first.weights_sha256 == second.weights_sha256
    config = "adapter_config.json"
    assert (Path(one.output) / config).read_bytes() == (Path(two.output) / config).read_bytes()


def test_another_seed_gives_other_weights(sft_job: Any) -> None:
    weights = {run(sft_job(f"s{seed}", seed=seed, epochs=1), sft.train).weights_sha256 for seed in (1, 2)}
    assert len(weights) == 2


def test_the_adapter_names_its_base_by_digest(sft_job: Any) -> None:
    job = sft_job(epochs=1)
    run(job, sft.train)
    config = json.loads((Path(job.output) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"sha256:{job.base.digest}"
    model = AutoModelForCausalLM.from_pretrained(job.base.path)
    assert isinstance(PeftModel.from_pretrained(model, job.output), PeftModel)


def test_a_finished_checkpoint_is_not_trained_again(sft_job: Any, caplog: pytest.LogCaptureFixture) -> None:
    job = sft_job(epochs=1)
    manifest = run(job, sft.train)
    written = (Path(job.output) / CHECKPOINT_FILE).stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert run(job, sft.train) == manifest
    assert "nothing to do" in caplog.text
    assert (Path(job.output) / CHECKPOINT_FILE).stat().st_mtime_ns == written


def test_a_damaged_checkpoint_is_refused_by_name(sft_job: Any) -> None:
    job = sft_job(epochs=1)
    run(job, sft.train)
    weights = Path(job.output) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ProofError, match=r"adapter_model\.safetensors has SHA-256"):
        run(job, sft.train)


def test_training_goes_on_from_the_parents_adapter(sft_job: Any) -> None:
    first = sft_job("first", epochs=3)
    parent = run(first, sft.train)
    ref = {"path": first.output, "checkpoint_id": "c1", "digest": parent.weights_sha256}
    child = run(sft_job("second", epochs=1, learning_rate=1e-9, warmup_ratio=0, parent=ref), sft.train)
    assert child.parent_checkpoint_id == "c1"
    assert child.metrics["train_loss_start"] < parent.metrics["train_loss_start"] - 0.1
    assert child.weights_sha256 != parent.weights_sha256


def test_a_set_of_a_single_step_is_learned(sft_job: Any) -> None:
    job = sft_job(rows=2, epochs=1, learning_rate=0.02)
    run(job, sft.train)
    with safe_open(Path(job.output) / "adapter_model.safetensors", "pt") as tensors:
        names = [name for name in list(tensors.keys()) if "lora_B" in name]
        grown = [tensors.get_tensor(name) for name in names]
    assert any(tensor.abs().max() > 0 for tensor in grown)  # they begin as zeros


def test_a_parent_whose_settings_were_edited_is_refused(sft_job: Any) -> None:
    first = sft_job("first", epochs=1)
    parent = run(first, sft.train)
    path = Path(first.output) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_rslora": True}))
    ref = {"path": first.output, "checkpoint_id": "c1", "digest": parent.weights_sha256}
    with pytest.raises(ProofError, match=r"adapter_config\.json"):
        run(sft_job("second", epochs=1, parent=ref), sft.train)


def test_an_adapter_on_a_head_that_shares_the_embeddings_is_refused(sft_job: Any) -> None:
    with pytest.raises(JobError, match="target_modules name lm_head, which shares its weights"):
        run(sft_job(target_modules=["q_proj", "lm_head"]), sft.train)


def test_a_parent_of_another_rank_is_refused(sft_job: Any) -> None:
    first = sft_job("first", epochs=1)
    parent = run(first, sft.train)
    ref = {"path": first.output, "checkpoint_id": "c1", "digest": parent.weights_sha256}
    with pytest.raises(JobError, match="an adapter keeps its form"):
        run(sft_job("second", lora_rank=8, parent=ref), sft.train)


def test_a_base_with_other_weights_is_refused(sft_job: Any) -> None:
    job = sft_job()
    wrong = job.model_copy(update={"base": job.base.model_copy(update={"digest": "0" * 64})})
    with pytest.raises(ProofError, match="base: the weights in"):
        run(wrong, sft.train)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_fine_tuning_writes_a_model_that_loads_alone(sft_job: Any, dtype: str) -> None:
    job = sft_job(method="full", epochs=1, learning_rate=1e-3, dtype=dtype)
    manifest = run(job, sft.train)
    model = AutoModelForCausalLM.from_pretrained(job.output, dtype="auto")
    assert str(model.dtype) == f"torch.{dtype}"
    assert AutoTokenizer.from_pretrained(job.output).chat_template
    assert manifest.weights_sha256 == weights_sha256(Path(job.output)) != job.base.digest


def test_a_base_whose_generation_settings_can_not_be_saved_is_trained_whole(
    sft_job: Any, llama: Path
) -> None:
    job = sft_job(method="full", epochs=1)
    settings = llama / "generation_config.json"
    before = settings.read_text()
    settings.write_text('{"temperature": 0.5, "top_p": 0.5}')  # without do_sample
    try:
        run(job, sft.train)
        assert (Path(job.output) / settings.name).read_text() == settings.read_text()
    finally:
        settings.write_text(before)


@pytest.mark.parametrize(("flag", "format"), [("avx512_bf16", "bfloat16"), ("avx2", "float32")])
def test_auto_is_the_number_format_that_the_cpu_computes(
    sft_job: Any, monkeypatch: pytest.MonkeyPatch, flag: str, format: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    assert run(sft_job(epochs=1, dtype="auto"), sft.train).environment["dtype"] == format


def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(sft_job: Any) -> None:
    settings = {
        "lora_dropout": 0.0, "epochs": 1, "scheduler": "constant", "warmup_ratio": 0, "dtype": "float32",
    }  # fmt: skip
    jobs = [
        sft_job("a", batch_size=4, **settings),
        sft_job("b", batch_size=2, gradient_accumulation=2, **settings),
    ]
    one, two = (run(job, sft.train).metrics for job in jobs)
    assert one["steps"] == two["steps"]
    assert one["train_loss_end"] == pytest.approx(two["train_loss_end"], rel=1e-4)


def test_the_loss_is_the_weighted_mean_over_completion_tokens(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    model = AutoModelForCausalLM.from_pretrained(llama)
    rows, want = [], 0.0
    for row in sft_rows(4):
        prompt, completion = render_example(tokenizer, parse_messages(row["input"]), row["output"])
        ids = torch.tensor([prompt + completion])
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
        want += (
            row["weight"]
            * torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item()
        )
        rows.append({"input_ids": prompt + completion, "prompt_tokens": len(prompt), "weight": row["weight"]})
    batch = sft.collator(0)(rows)
    for keeps in (True, False):
        assert sft.completion_loss(keeps)(model, batch).item() == pytest.approx(want, rel=1e-4)


def test_truncation_is_counted(sft_job: Any) -> None:
    manifest = run(sft_job(max_length=32, epochs=1), sft.train)
    assert 0 < manifest.metrics["truncated_examples"] < 16


def test_prompts_that_leave_no_room_are_refused_by_position(make_job: Any, llama: Path) -> None:
    rows = sft_rows(4)
    long = {"input": ask("cake " * 50), "output": "no", "weight": 1.0, "role": "target"}
    rows[2] = {"position": 2, **long, "example_sha256": sft_example_sha256(**long)}
    with pytest.raises(JobError, match="at positions 2; raise max_length"):
        run(make_job(llama, rows, settings={"max_length": 40}), sft.train)


def test_a_module_that_matches_nothing_is_refused(sft_job: Any) -> None:
    with pytest.raises(JobError, match=r"\['query'\] name no linear layer"):
        run(sft_job(target_modules=["q_proj", "query"]), sft.train)


def test_a_loss_that_is_not_finite_is_a_failure(sft_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_loss = sft.completion_loss
    monkeypatch.setattr(
        sft,
        "completion_loss",
        lambda *how: lambda model, batch: broken_loss(*how)(model, batch) * float("nan"),
    )
    job = sft_job()
    with pytest.raises(DivergedError, match="loss is nan at step 1 of 8"):
        run(job, sft.train)
    assert not (Path(job.output) / CHECKPOINT_FILE).exists()
