"""Batches read in passes by length: which rows go together, and that a loss does not depend on it."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from schemas.manifests import RewardSettings
from training import lengths, reward, sft
from training.lengths import by_length, passes

MIXED = [9, 40, 5, 38, 7]


def _cost(found: list[list[int]], tokens: list[int], a_pass: int) -> int:
    return sum(len(rows) * max(tokens[row] for row in rows) + a_pass for rows in found)


@pytest.mark.parametrize("a_pass", [0, 1, 20, 100, 10_000])
def test_no_other_cut_of_the_sorted_rows_costs_less(a_pass: int) -> None:
    order = sorted(range(len(MIXED)), key=lambda row: MIXED[row])
    cuts = [[0, *(at for at in range(1, 5) if bits >> at & 1), 5] for bits in range(0, 32, 2)]
    costs = [_cost([order[a:b] for a, b in pairwise(cut)], MIXED, a_pass) for cut in cuts]
    found = by_length(MIXED, a_pass)
    assert sorted(row for rows in found for row in rows) == list(range(5))
    assert _cost(found, MIXED, a_pass) == min(costs)


def test_rows_of_about_one_length_take_one_pass() -> None:
    assert len(by_length([60, 64, 61, 66], 256)) == 1


def test_a_pass_holds_no_place_that_is_padding_in_all_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lengths.PASS, "cpu", 0)
    mask = torch.tensor([[1] * tokens + [0] * (40 - tokens) for tokens in MIXED])
    parts = passes({"attention_mask": mask, "input_ids": torch.arange(5)[:, None] + mask})
    assert [part["attention_mask"].shape[1] for _, part in parts] == sorted(MIXED)
    for rows, part in parts:
        assert part["input_ids"][:, 0].tolist() == (rows + 1).tolist()


def test_the_loss_of_completions_is_the_same_in_any_passes(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    rows = [
        {"input_ids": list(range(3, 3 + tokens)), "prompt_tokens": tokens // 2, "weight": 1.0 + tokens}
        for tokens in MIXED
    ]
    found = []
    for a_pass in (0, 10_000):
        monkeypatch.setitem(lengths.PASS, "cpu", a_pass)
        found.append(sft.completion_loss(True)(model, sft.collator(0)(rows)).item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("kind", ["binary", "pairwise"])
def test_the_loss_of_judged_rows_is_the_same_in_any_passes(
    bert: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=1).eval()
    names = ("input_ids", "attention_mask", "token_type_ids")

    def encoded(tokens: int) -> dict[str, list[int]]:
        values = (list(range(5, 5 + tokens)), [1] * tokens, [0] * tokens)
        return dict(zip(names, values, strict=True))

    rows = [
        {"inputs": encoded(tokens), "rejected": encoded(50 - tokens), "label": tokens % 2} for tokens in MIXED
    ]
    batch = reward.collator(RewardSettings(loss=kind, objective_note="x"), 0)(rows)
    found = []
    for a_pass in (0, 10_000):
        monkeypatch.setitem(lengths.PASS, "cpu", a_pass)
        found.append(reward.reward_loss(model, batch).item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)
