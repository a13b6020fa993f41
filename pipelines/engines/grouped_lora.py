"""A vLLM plugin: on the CPU, adapters are applied by one product for each adapter of a batch.

vLLM 0.32 copies a token's whole adapter before it multiplies (`vllm/lora/ops/torch_ops/lora_ops.py`, `bgmv_shrink`), so
a prompt of 100 tokens moves 100 adapters through memory. It also reads index -1, "no adapter", as the last slot
of the stack, and dies of `prompt_logprobs` while an adapter is loaded: `add_lora_logits` then sees more rows than were
sampled. Here the tokens of a batch are sorted by adapter once a step, and each layer multiplies each group by its
own two matrices; tokens without an adapter are left alone.

Loaded in every vLLM process by the entry point `vllm.general_plugins`, and inert unless `GROUPED_LORA` is set, which
`launch` does for the servers it starts.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GROUPED_LORA = "MART_GROUPED_LORA"
# What the variable may say. Groups are Python lists, which a compiled model can't follow; logits are never compiled.
_CLASSES = {"all": "GroupedLora", "logits": "GroupedLogits"}

# A slot of the stack, and the rows that use it; None stands for all rows.
Group = tuple[int, "torch.Tensor | None"]


def register() -> None:
    """Have vLLM's CPU platform apply adapters in groups, where the environment asks for it."""
    name = _CLASSES.get(os.environ.get(GROUPED_LORA, ""))
    if name is None:
        return
    from vllm.platforms.cpu import CpuPlatform

    def get_punica_wrapper(cls: type) -> str:
        return f"pipelines.engines.grouped_lora_wrapper.{name}"

    CpuPlatform.get_punica_wrapper = classmethod(get_punica_wrapper)  # type: ignore[method-assign, assignment]


def groups_of(indices: "torch.Tensor") -> list[Group]:
    """The rows of each slot, from `indices`, int64 `[rows]`, in which -1 is a row without adapter."""
    slots = indices.unique().tolist()
    if len(slots) == 1 and slots[0] >= 0:
        return [(slots[0], None)]
    return [(slot, (indices == slot).nonzero().squeeze(1)) for slot in slots if slot >= 0]


def add_delta(
    y: "torch.Tensor",
    x: "torch.Tensor",
    a: "torch.Tensor",
    b: "torch.Tensor",
    scale: float,
    groups: list[Group],
) -> None:
    """Add `scale * x @ a[slot].T @ b[slot].T` to the rows of each group, in place.

    Args:
        y: `[rows, out]`, a view of the layer's output.
        x: `[rows, in]`.
        a: `[slots, 1, rank, in]`.
        b: `[slots, 1, at least out, rank]`.
        scale: factor of the product.
        groups: as of `groups_of`.
    """
    from torch.nn.functional import linear

    for slot, rows in groups:
        own = x if rows is None else x[rows]
        delta = linear(linear(own.to(a.dtype), a[slot, 0]), b[slot, 0, : y.shape[1]]).to(y.dtype)
        if scale != 1.0:
            delta *= scale
        if rows is None:
            y += delta
        else:
            y.index_add_(0, rows, delta)
