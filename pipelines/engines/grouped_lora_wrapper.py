"""The classes that `grouped_lora` has vLLM use; a module of its own because importing vLLM takes seconds."""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from pipelines.engines.grouped_lora import Group, add_delta, groups_of


class GroupedLogits(PunicaWrapperCPU):
    """vLLM's own products in the layers, and groups for the logits alone."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take the mapping of a step, and sort its rows."""
        super().update_metadata(*args, **kwargs)
        self._rows: list[Group] = groups_of(self.token_lora_indices)
        self._sampled: list[Group] = groups_of(self.sampler_indices)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the adapters' part to the logits `y`, `[sampled rows, vocabulary]`; nothing where none has a part there."""
        if lora_a_stacked.any():
            y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            width = min(y.shape[1], lora_b_stacked.shape[2])
            add_delta(y[:, :width], x, lora_a_stacked, lora_b_stacked, scale, self._sampled)


class GroupedLora(GroupedLogits):
    """vLLM's bookkeeping of which row uses which adapter, with the products of `grouped_lora.add_delta`."""

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the adapters' part to a linear layer's output `y`, `[tokens, out]`, slice by slice."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add_delta(y[:, start : start + width], x, a, b, scale, self._rows)
            start += width
