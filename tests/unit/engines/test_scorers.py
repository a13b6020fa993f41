"""Judges: values in [0, 1], a row's error its own, no dependence on batch mates; and the task that asks one."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from pipelines.engines import scorers
from pipelines.engines.protocol import Score, ScorerSpec
from pipelines.engines.scorers import open_scorer
from pipelines.errors import ConfigError
from pipelines.steps.score import judging

VALUES = {"refused": 1.0, "complied": 0.0, "neither": None}


@dataclass
class Verdict:
    label: str


def rule(prompt: str, response: str) -> Verdict:
    if response == "crash":
        raise ValueError("no idea")
    return Verdict(response)


def test_a_rule_maps_labels_and_keeps_a_failure_to_its_row():
    scorer = open_scorer(ScorerSpec("truth", "rule", f"{__name__}:rule", "0", options={"values": VALUES}))
    items = [(word, "p", word) for word in ("refused", "complied", "neither", "crash", "odd")]
    found = {score.response_id: score for score in scorer.score(items)}
    assert (found["refused"].value, found["complied"].value, found["neither"].value) == (1.0, 0.0, None)
    assert found["neither"].label == "neither"
    assert found["neither"].error is None
    assert found["crash"].error == "the rule failed: ValueError: no idea"
    assert "has no value" in (found["odd"].error or "")


def test_an_unknown_kind_and_a_rule_without_values_are_refused():
    with pytest.raises(ConfigError, match="'oracle'"):
        open_scorer(ScorerSpec("x", "oracle", "m", "0"))
    with pytest.raises(ConfigError, match="values"):
        open_scorer(ScorerSpec("x", "rule", f"{__name__}:rule", "0"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """A small random BERT with one output."""
    path = str(tmp_path_factory.mktemp("bert"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{index}" for index in range(100))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    fast.save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=1, initializer_range=0.3,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(path)
    return path


def test_a_classifiers_values_do_not_depend_on_batch_mates(classifier):
    items = [(f"r{n}", f"w{n}", " ".join(f"w{(n * k) % 100}" for k in range(n % 40 + 1))) for n in range(50)]
    many = open_scorer(ScorerSpec("safety", "classifier", classifier, "0", max_length=48, batch_size=16))
    single = open_scorer(ScorerSpec("safety", "classifier", classifier, "0", max_length=48, batch_size=1))
    together = {score.response_id: score.value for score in many.score(items)}
    alone = {score.response_id: score.value for score in single.score(items)}
    assert together == pytest.approx(alone, abs=1e-5)
    assert all(value is not None and 0 <= value <= 1 for value in together.values())
    assert len({round(value or 0, 4) for value in together.values()}) > 40


def test_a_classifier_is_opened_once(classifier):
    spec = ScorerSpec("safety", "classifier", classifier, "0", max_length=48)
    assert open_scorer(spec) is open_scorer(spec)


def test_what_is_no_classifier_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="can't load"):
        open_scorer(ScorerSpec("safety", "classifier", str(tmp_path), "1"))


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What becomes of a classifier that likes everything: when it is opened, asked and closed."""
    found: list[str] = []

    class Classifier:
        def __init__(self, spec):
            found.append("opened")

        def score(self, items):
            found.append("asked")
            return (Score(response_id, 1.0) for response_id, _, _ in items)

        def close(self):
            found.append("closed")

    monkeypatch.setattr(scorers, "ClassifierScorer", Classifier)
    monkeypatch.setattr(scorers, "_open", {})
    return found


JUDGE = judging(ScorerSpec("safety", "classifier", "m", "0"))


def batches(number: int, read: list[int]) -> Iterator[pd.DataFrame]:
    """So many batches of 64 rows, as Spark hands them to a task."""
    for batch in range(number):
        read.append(batch)
        ids = [f"r{batch * 64 + row:03}" for row in range(64)]
        yield pd.DataFrame({"response_id": ids, "prompt": "p", "text": "t"})


def test_a_task_asks_its_judge_once_for_all_batches_and_reads_them_as_it_needs_them(calls):
    read: list[int] = []
    frames = JUDGE(batches(5, read))
    first = next(frames)
    assert len(read) <= 2
    found = pd.concat([first, *frames])
    assert list(found["response_id"]) == [f"r{row:03}" for row in range(320)]
    assert calls.count("asked") == 1


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [(False, ["opened", "asked", "asked"]), (True, ["opened", "asked", "closed"] * 2)],
)
def test_the_next_task_finds_a_classifier_on_a_cpu_and_the_memory_on_a_gpu(calls, monkeypatch, gpu, expected):
    monkeypatch.setattr(scorers, "has_gpu", lambda: gpu)
    for _ in range(2):
        assert len(pd.concat(JUDGE(batches(1, [])))) == 64
    assert calls == expected
