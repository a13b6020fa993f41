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

TRIED = 4  # trees that a model is tried on
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


def _loss_and_gradients(
    model: Any, tree_dtype: torch.dtype | None, keeps_logits: bool = True
) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    loss = sft.completion_loss(keeps_logits, tree_dtype)(model, _batch())
    loss.backward()
    return loss.item(), [weights.grad.clone() for weights in model.parameters()]


@pytest.mark.parametrize("keeps_logits", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_of_a_tree_are_those_of_its_rows(
    llama: Path, keeps_logits: bool, attention: str, checkpointing: bool
) -> None:
    model = _model(llama)
    of_rows, slopes = _loss_and_gradients(model, None)
    model.set_attn_implementation(attention)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    of_tree, tree_slopes = _loss_and_gradients(model.train(), torch.float32, keeps_logits)
    assert of_tree == pytest.approx(of_rows, rel=1e-5)
    for slope, tree_slope in zip(slopes, tree_slopes, strict=True):
        torch.testing.assert_close(tree_slope, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_trees_loss_computed_in_bfloat16_is_that_of_its_rows(llama: Path, attention: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16, attn_implementation=attention)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [
            sft.completion_loss(True, dtype)(model, _batch()).item() for dtype in (None, torch.bfloat16)
        ]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


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
    assert len(read) == steps + TRIED


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


def test_a_batch_whose_rows_share_nothing_is_read_in_passes(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees.TokenTree, "inputs", None)
    rows = [{"input_ids": [first, 5, 6, 7], "prompt_tokens": 2, "weight": 1.0} for first in (3, 4)]
    sft.completion_loss(True, torch.float32)(_model(llama), sft.collator(0)(rows))


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@DTYPES
@pytest.mark.parametrize("learning", [True, False])
def test_a_transformer_is_found_to_read_trees_and_left_as_it_was(
    llama: Path, dtype: torch.dtype, learning: bool
) -> None:
    model = _model(llama).train(learning)
    assert reads_trees(model, True, dtype)
    assert model.training is learning


class _Other(nn.Module):
    """A model that is asked without its mask or places, knows neither, or carries what it read from token to token."""

    def __init__(self, model: Any, kind: str) -> None:
        super().__init__()
        self.model, self.config, self.kind = model, model.config, kind
        self.get_input_embeddings = model.get_input_embeddings

    def forward(self, input_ids: Tensor, use_cache: bool = False, **given: Any) -> Any:
        if self.kind == "knows_neither" and given:
            raise KeyError("attention_mask")
        given.pop(self.kind, None)
        output = self.model(input_ids=input_ids, use_cache=use_cache, **given)
        if self.kind == "carries":
            carried = self.get_input_embeddings()(input_ids).cumsum(dim=1)
            output.logits = output.logits + self.model.lm_head(carried)
        return output


@DTYPES
@pytest.mark.parametrize("kind", ["attention_mask", "position_ids", "knows_neither", "carries"])
def test_a_model_that_would_mix_rows_or_places_is_found_unable(
    llama: Path, kind: str, dtype: torch.dtype
) -> None:
    assert not reads_trees(_Other(_model(llama), kind), False, dtype)


@pytest.mark.parametrize("name", ["sliding_window", "window_size"])
def test_a_model_with_a_short_window_is_found_unable(llama: Path, name: str) -> None:
    model = _model(llama)
    setattr(model.config, name, 64)
    assert not reads_trees(model, True, torch.float32)
