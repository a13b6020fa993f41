"""A reward model behind an engine: what the engine is sent, and what becomes of its answers."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipelines.engines.pooling import PooledClassifierScorer
from pipelines.engines.protocol import GeneratorSpec, Score, ScorerSpec
from pipelines.errors import ConfigError
from schemas.rendering import encode_pair
from tests import tiny

Judge = Callable[..., dict[str, Score]]


@pytest.fixture
def judge(make_spec: Callable[..., GeneratorSpec]) -> Judge:
    """Scores of (prompt, response) pairs by a fake engine whose logit is a tenth of the words or tokens it was sent."""

    def score(model: Path, *pairs: tuple[str, str], max_length: int = 48) -> dict[str, Score]:
        spec = ScorerSpec("safety", "classifier", str(model), "0", max_length=max_length, engine=make_spec())
        scorer = PooledClassifierScorer(spec)
        items = [(str(place), *pair) for place, pair in enumerate(pairs)]
        found = {score.response_id: score for score in scorer.score(items)}
        scorer.close()
        return found

    return score


def _sent(tmp_path: Path) -> list[list[str | int]]:
    return [json.loads(line) for line in (tmp_path / "state" / "pairs").read_text().splitlines()]


def test_a_dialogue_is_sent_as_the_token_ids_that_the_trainer_saw(judge: Judge, tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "llama", classifier=True)
    found = judge(model, ("a cake", "with salt " * 40))
    ids = encode_pair(AutoTokenizer.from_pretrained(model), "a cake", "with salt " * 40, 48)["input_ids"]
    assert _sent(tmp_path) == [ids]
    assert found["0"].value == pytest.approx(1 / (1 + math.exp(-len(ids) / 10)))


def test_a_pair_is_sent_as_two_texts_that_encode_to_what_the_trainer_saw(
    judge: Judge, tmp_path: Path
) -> None:
    model = tiny.bert(tmp_path / "bert", classifier=True)
    # A cake's sign is four tokens of one character.
    long = ("the flour " * 30, "sugar bread " * 30), ("\N{BIRTHDAY CAKE}" * 30, "\N{BIRTHDAY CAKE}" * 30)
    pairs = [("a cake", "with salt"), ("a [SEP] cake", "so"), *long]
    judge(model, *pairs)
    tokenizer = AutoTokenizer.from_pretrained(model)
    sent = sorted(_sent(tmp_path), key=str)
    lengths = {tuple(texts): len(tokenizer(*texts)["input_ids"]) for texts in sent}
    assert ("a cake", "with salt") in lengths
    assert max(lengths.values()) <= 48
    assert sorted(length for length in lengths.values() if length > 40) == [43, 48], "whole characters"
    seen = [encode_pair(tokenizer, *pair, 48)["input_ids"] for pair in pairs]
    assert sorted(tokenizer(*texts)["input_ids"] for texts in sent) == sorted(seen)


def test_what_can_not_be_encoded_or_read_is_its_rows_error(judge: Judge, tmp_path: Path) -> None:
    model = tiny.bert(tmp_path / "bert", classifier=True)
    found = judge(model, ("unreadable", "so"), ("a cake", "so"))
    assert found["0"].value is None and "Out of range float values" in (found["0"].error or "")
    assert found["1"].value == pytest.approx(1 / (1 + math.exp(-0.3)))
    short = judge(tiny.llama(tmp_path / "llama", classifier=True), ("a cake", "so"), max_length=8)
    assert short["0"].value is None and "can't be encoded: max_length" in (short["0"].error or "")


def test_a_model_that_is_no_classifier_of_one_output_is_refused(judge: Judge, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 2 outputs; it needs one"):
        judge(tiny.llama(tmp_path / "plain"), ("a", "b"))
    with pytest.raises(ConfigError, match="transformers can't read"):
        judge(tmp_path / "nowhere", ("a", "b"))
