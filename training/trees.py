"""A batch as a tree of its tokens: what several rows begin with is computed once.

A causal model computes of a token what its predecessors decide, and nothing else. Rows of one batch mostly begin alike (a
chat template's system message, a prompt with several answers), so their tokens form a tree: one for each different
beginning. The tree is read as a single row in which a token sees its ancestors and stands at its depth. Losses and
gradients are those of the rows one by one, but for rounding; dropout draws once for what rows share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Tokens. Attention keeps a square of them for each head: beyond this it would cost more than shared beginnings spare.
LARGEST = 512
# How far a logit may be off, as a share of the largest. In bfloat16 rounding came to 0.03 in a 135 M model, and seeing
# what is no ancestor to 0.6 and more.
_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_TRIED = 96  # tokens of a row


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
            if weight:
                learned[at] = learned.get(at, 0.0) + weight
    sees = np.eye(len(tokens), dtype=bool)
    for at, parent in enumerate(parents):
        if parent >= 0:
            sees[at] |= sees[parent]
    return TokenTree(
        torch.tensor([tokens]),
        torch.tensor([depths]),
        torch.from_numpy(sees),
        torch.tensor(list(learned)),
        torch.tensor([parents[at] for at in learned]),
        torch.tensor(list(learned.values()), dtype=torch.float32),
    )


def tree_of(batch: dict[str, Tensor]) -> TokenTree | None:
    """The tree of a padded batch: `input_ids`, `attention_mask` and `loss_weight`, each [rows, longest]."""
    lengths: list[int] = batch["attention_mask"].sum(dim=1).tolist()
    return token_tree(
        [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths, strict=True)],
        [row[:length] for row, length in zip(batch["loss_weight"].tolist(), lengths, strict=True)],
    )


@torch.no_grad()
def reads_trees(model: nn.Module, row: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether a model computes of a tree what it computes of a row: tried on one row beside another that parts from it midway.

    A model that carries a state from token to token can't, nor one that counts places by itself; one whose attention reaches
    less far than `LARGEST` tokens is not asked, since the tree's mask knows no windows.

    Args:
        model: on the CPU.
        row: token ids.
        dtype: what it computes in.
    """
    config: Any = model.config
    reach = [
        getattr(config.get_text_config(), name, None) for name in ("sliding_window", "attention_chunk_size")
    ]
    if any(far is not None and far < LARGEST for far in reach):
        return False
    tried = list(row[:_TRIED])
    half = len(tried) // 2
    tree = token_tree(
        [[*tried[:half], *tried[half:][::-1]], tried], [[0.0] * len(tried), [0.0] + [1.0] * (len(tried) - 1)]
    )
    if tree is None:
        return False
    learning = model.training
    model.eval()
    try:
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            alone = model(input_ids=torch.tensor([tried]), use_cache=False).logits[0, 1:].float()
            together = model(**tree.inputs(dtype), use_cache=False).logits[0, tree.learned].float()
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False  # it does not know the mask or the places
    finally:
        model.train(learning)
    return bool((together - alone).abs().max() <= _ROUNDING[dtype] * alone.abs().max())
