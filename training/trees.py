"""A batch as a tree of its tokens: what several rows begin with is computed once.

A causal model computes of a token what its predecessors decide, and nothing else. Rows of one batch mostly begin alike (a
chat template's system message, a prompt with several answers), so their tokens form a tree: one for each different
beginning. The tree is read as a single row in which a token sees its ancestors and stands at its depth. Losses and
gradients are those of the rows one by one, but for rounding; dropout draws once for what rows share.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.lengths import passes

log = logging.getLogger(__name__)

# Tokens. Attention keeps a square of them for each head: beyond this it would cost more than shared beginnings spare.
LARGEST = 512
_SPARES = 7 / 8  # a tree's share of the tokens that its rows take in passes, at most
_HALF = 24  # tokens of the row that a model is tried on, before others part from it, and after
_SPREAD = 101  # from one token of it to the next
# How far the row's logits may be off, as a share of how far they are off at other places. A 135 M model's were the same
# in bfloat16, and off by a share of 1e-5 in float32.
_NEAR = 0.1
# What configurations call how far attention reaches.
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")


@dataclass(frozen=True)
class TokenTree:
    """n tokens of which m are learned.

    Attributes:
        tokens: int64 [1, n], a parent before its children.
        depths: int64 [1, n], the place of each in its rows.
        sees: bool [n, n], whether a token is seen by another: by itself and its descendants.
        learned: int64 [m], the places of the tokens that are learned.
        parents: int64 [m], the place of the token before each.
        weights: float32 [m], the sum over the rows that hold it.
    """

    tokens: Tensor
    depths: Tensor
    sees: Tensor
    learned: Tensor
    parents: Tensor
    weights: Tensor

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What a model is asked with; the mask is added to attention's logits in the number format it computes in."""
        mask = torch.zeros(self.sees.shape, dtype=dtype).masked_fill(~self.sees, torch.finfo(dtype).min)
        return {
            "input_ids": self.tokens,
            "attention_mask": mask[None, None],
            "position_ids": self.depths,
        }


def token_tree(rows: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]) -> TokenTree | None:
    """The tree of some rows' tokens, or nothing if it has more than `LARGEST`.

    Args:
        rows: token ids, without padding.
        weights: of each token's loss, 0 where it is not learned; a row's first token never is.
    """
    places: dict[tuple[int, int], int] = {}  # (place of the parent, token) to place
    parents: list[int] = []
    depths: list[int] = []
    tokens: list[int] = []
    learned: dict[int, float] = {}
    for row, row_weights in zip(rows, weights, strict=True):
        at = -1
        for depth, (token, weight) in enumerate(zip(row, row_weights, strict=True)):
            found = places.setdefault((at, token), len(tokens))
            if found == len(tokens):
                if found == LARGEST:
                    return None
                parents.append(at)
                depths.append(depth)
                tokens.append(token)
            at = found
            if weight > 0:
                learned[at] = learned.get(at, 0.0) + weight
    sees = np.eye(len(tokens), dtype=bool)
    for at, parent in enumerate(parents):
        if parent >= 0:
            sees[at] |= sees[parent]
    return TokenTree(
        torch.tensor([tokens]),
        torch.tensor([depths]),
        torch.from_numpy(sees),
        torch.tensor(list(learned), dtype=torch.int64),
        torch.tensor([parents[at] for at in learned], dtype=torch.int64),
        torch.tensor(list(learned.values()), dtype=torch.float32),
    )


def tree_of(batch: dict[str, Tensor]) -> TokenTree | None:
    """The tree of a padded batch, or nothing if it is large or spares little.

    Args:
        batch: `input_ids`, `attention_mask` and `loss_weight`, each [rows, longest].
    """
    lengths: list[int] = batch["attention_mask"].sum(dim=1).tolist()
    tree = token_tree(
        [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths, strict=True)],
        [row[:length] for row, length in zip(batch["loss_weight"].tolist(), lengths, strict=True)],
    )
    in_passes = sum(part["input_ids"].numel() for _, part in passes(batch))
    return tree if tree is not None and tree.tokens.numel() <= _SPARES * in_passes else None


def logits_at(model: nn.Module, inputs: dict[str, Tensor], places: Tensor, keeps_logits: bool) -> Tensor:
    """A model's logits at some places of every row, [rows, places, vocabulary].

    Args:
        model, inputs: who is asked, and with what.
        places: int64, each in any order and any number of times.
        keeps_logits: whether the model can give the logits of some tokens only (`logits_to_keep`).
    """
    # Indices and not their number: a slice would be a view, for which torch copies the head once a row.
    extra = {"logits_to_keep": places} if keeps_logits else {}
    logits: Tensor = model(**inputs, use_cache=False, **extra).logits
    return logits if keeps_logits else logits[:, places]


@torch.no_grad()
def reads_trees(model: Any, keeps_logits: bool, dtype: torch.dtype) -> bool:
    """Whether a model computes of a tree what it computes of a row alone: tried on a row from which others part midway.

    What the others hold must make no difference at all, so that no model that carries a state from token to token is found
    able. And it must come far nearer to the row alone than where the tokens' places are not told: that needs a model
    which is told them, and which sees ancestors from anywhere in a tree of `LARGEST` tokens. Windows in place of which it
    takes the tree's mask show in longer rows only; they are looked up.

    Args:
        model: on the CPU, with or without adapters of peft's.
        keeps_logits: whether it can give the logits of some tokens only.
        dtype: what it computes in.
    """
    reach = [getattr(model.config, name, None) for name in _WINDOWS]
    if any(isinstance(far, int) and far < LARGEST for far in reach):
        return False
    vocabulary = model.get_input_embeddings().weight.shape[0]
    row = [_SPREAD * at % vocabulary for at in range(1, 2 * _HALF + 1)]

    def read(inputs: dict[str, Tensor], places: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            return logits_at(model, inputs, places, keeps_logits)[0].float()

    def beside(others: Sequence[int], *, told: bool = True) -> Tensor:
        """The logits of the row's second half, beside rows that go on otherwise, by a number of theirs."""
        rows = [[*row[:_HALF], *((token + other) % vocabulary for token in row[_HALF:])] for other in others]
        weights = [[0.0] * len(row)] * len(rows) + [[0.0] * _HALF + [1.0] * _HALF]
        tree = token_tree([*rows, row], weights)
        assert tree is not None
        inputs = tree.inputs(dtype)
        if not told:
            inputs["position_ids"] = torch.arange(tree.tokens.shape[1])[None]
        return read(inputs, tree.learned)

    learning = model.training
    model.eval()
    try:
        alone = read({"input_ids": torch.tensor([row])}, torch.arange(_HALF, 2 * _HALF))
        try:
            with_one, with_another = beside([1]), beside([2])
            with_many = beside(range(1, LARGEST // _HALF - 1))
            misplaced = beside([1], told=False)
        except Exception as error:  # noqa: BLE001 - whatever a model raises that knows no such mask or places
            log.info("what rows share is read in each: the model takes no tree of tokens (%s)", error)
            return False
    finally:
        model.train(learning)
    if not torch.equal(with_one, with_another):
        log.info("what rows share is read in each: the model would mix rows")
        return False
    off = [(found - alone).abs().mean().item() for found in (with_one, with_many, misplaced)]
    if max(off[:2]) > _NEAR * off[2]:
        log.info("what rows share is read in each: logits would be off by %.2g, %.2g (misplaced: %.2g)", *off)
        return False
    return True
