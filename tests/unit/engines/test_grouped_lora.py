"""Adapters applied group by group give what each row's own adapter gives it, and nothing to a row that has none."""

import pytest
import torch

from pipelines.engines.grouped_lora import GROUPED_LORA, add_delta, groups_of
from pipelines.engines.launch import engine_environment
from pipelines.engines.protocol import GeneratorSpec

SLOTS, RANK, WIDTH, OUT = 3, 4, 8, 10


@pytest.mark.parametrize("slots", [[1, 1, 1, 1], [0, 2, -1, 2, 0, -1], [-1, -1], [-1, 2]])
def test_each_row_gets_its_own_adapter_and_a_row_without_one_gets_none(slots: list[int]) -> None:
    source = torch.Generator().manual_seed(0)
    a = torch.randn(SLOTS, 1, RANK, WIDTH, generator=source)
    b = torch.randn(SLOTS, 1, OUT, RANK, generator=source)
    x = torch.randn(len(slots), WIDTH, generator=source)
    whole = torch.randn(len(slots), OUT + 5, generator=source)
    expected = whole.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            expected[row, 2 : 2 + OUT] += 0.5 * (b[slot, 0] @ (a[slot, 0] @ x[row]))
    add_delta(whole[:, 2 : 2 + OUT], x, a, b, 0.5, groups_of(torch.tensor(slots)))
    torch.testing.assert_close(whole, expected)


def test_a_compiled_model_keeps_the_products_of_vllm_in_its_layers() -> None:
    spec = GeneratorSpec(backend="vllm", model="m", model_digest="d", max_adapters=2)
    assert engine_environment(spec)[0][GROUPED_LORA] == "all"
    compiled = GeneratorSpec(
        backend="vllm", model="m", model_digest="d", max_adapters=2, options={"compile": True}
    )
    assert engine_environment(compiled)[0][GROUPED_LORA] == "logits"
