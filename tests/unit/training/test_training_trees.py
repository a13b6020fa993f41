"""Batches read as trees of their tokens: what is shared is read once, and losses and gradients are those of the rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from training import sft, trees
from training.command import run
from training.trees import reads_trees, token_tree

SYSTEM = list(range(3, 15))
ROWS = [  # token ids, how many of them are the prompt's, weight
    ([*SYSTEM, 20, 21, 30, 31, 32], 14, 1.0),
    ([*SYSTEM, 20, 21, 30, 31, 33, 34], 14, 2.0),  # the first one's prompt, and how its answer begins
    ([*SYSTEM, 20, 22, 30], 14, 0.5),
    ([40, 41, 42, 43], 2, 3.0),  # begins like no other
    ([*SYSTEM, 20, 21, 30, 31, 35], 16, 1.0),  # its prompt holds what others learn
]


def _batch() -> dict[str, Tensor]:
    return sft.collator(0)(
        [{"input_ids": ids, "prompt_tokens": prompt, "weight": weight} for ids, prompt, weight in ROWS]
    )


def _model(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def _loss_and_gradients(model: Any, tree_dtype: torch.dtype | None) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    loss = sft.completion_loss(True, tree_dtype)(model, _batch())
    loss.backward()
    return loss.item(), [weights.grad.clone() for weights in model.parameters()]


def test_loss_and_gradients_of_a_tree_are_those_of_its_rows(llama: Path) -> None:
    model = _model(llama)
    of_rows, slopes = _loss_and_gradients(model, None)
    of_tree, tree_slopes = _loss_and_gradients(model, torch.float32)
    assert of_tree == pytest.approx(of_rows, rel=1e-5)
    for slope, tree_slope in zip(slopes, tree_slopes, strict=True):
        torch.testing.assert_close(tree_slope, slope, rtol=1e-4, atol=1e-5)


def test_what_rows_begin_with_is_read_once(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(llama)
    read: list[int] = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: read.append(inputs["input_ids"].numel()) or forward(**inputs)
    )
    sft.completion_loss(True, torch.float32)(model, _batch())
    beginnings = {tuple(ids[:end]) for ids, *_ in ROWS for end in range(1, len(ids) + 1)}
    assert read == [len(beginnings)]


def test_a_training_reads_its_batches_as_trees(sft_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    inputs = trees.TokenTree.inputs
    monkeypatch.setattr(trees.TokenTree, "inputs", lambda *of: read.append(of) or inputs(*of))
    steps = run(sft_job(), sft.train).metrics["steps"]
    assert len(read) == steps + 1, "one for each step, after the trial"


def test_a_token_sees_its_own_rows_beginning_and_nothing_else() -> None:
    tree = token_tree([[1, 2, 3], [1, 2, 4], [5, 2]], [[0.0] * 3, [0.0] * 3, [0.0] * 2])
    assert tree is not None
    assert tree.tokens.tolist() == [[1, 2, 3, 4, 5, 2]]
    assert tree.depths.tolist() == [[0, 1, 2, 2, 0, 1]]
    seen = [[at for at in range(6) if row[at]] for row in tree.sees.tolist()]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [4], [4, 5]]


def test_a_batch_with_too_many_tokens_for_a_tree_is_read_in_passes(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(llama)
    of_rows, _ = _loss_and_gradients(model, None)
    monkeypatch.setattr(trees, "LARGEST", 8)
    monkeypatch.setattr(trees.TokenTree, "inputs", None)
    assert _loss_and_gradients(model, torch.float32)[0] == of_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_transformer_is_found_to_read_trees(llama: Path, dtype: torch.dtype) -> None:
    assert reads_trees(_model(llama), ROWS[1][0], dtype)


class _Forgetful(nn.Module):
    """A model that is asked without some of its inputs."""

    def __init__(self, model: Any, ignores: str) -> None:
        super().__init__()
        self.model, self.config, self.ignores = model, model.config, ignores

    def forward(
        self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None, use_cache: bool = False
    ) -> Any:
        given = {"attention_mask": attention_mask, "position_ids": position_ids, self.ignores: None}
        return self.model(input_ids=input_ids, use_cache=use_cache, **given)


@pytest.mark.parametrize("ignores", ["attention_mask", "position_ids"])
def test_a_model_that_would_mix_rows_or_places_is_read_row_by_row(llama: Path, ignores: str) -> None:
    assert not reads_trees(_Forgetful(_model(llama), ignores), ROWS[1][0], torch.float32)


def test_a_model_with_a_short_window_is_read_row_by_row(llama: Path) -> None:
    model = _model(llama)
    model.config.sliding_window = 64
    assert not reads_trees(model, ROWS[1][0], torch.float32)
