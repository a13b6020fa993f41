"""What a vLLM server is started with."""

from dataclasses import replace
from itertools import takewhile

import pytest

from pipelines.engines import launch
from pipelines.engines.launch import engine_arguments, vllm_command
from pipelines.engines.protocol import GeneratorSpec
from pipelines.errors import ConfigError

ADAPTERS = GeneratorSpec("vllm", "base", "digest", dtype="float32", max_adapters=2, max_lora_rank=8)


def test_adapters_in_a_format_that_a_gpu_cannot_serve_are_refused_before_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    with pytest.raises(ConfigError, match="bfloat16"):
        engine_arguments(ADAPTERS)


@pytest.mark.parametrize(
    ("gpu", "change"), [(True, {"dtype": "bfloat16"}), (True, {"max_adapters": 0}), (False, {})]
)
def test_what_can_be_served_keeps_its_format(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, change: dict[str, object]
) -> None:
    monkeypatch.setattr(launch, "has_gpu", lambda: gpu)
    spec = replace(ADAPTERS, **change)  # type: ignore[arg-type]
    assert engine_arguments(spec)["dtype"] == spec.dtype


def test_only_modules_that_adapters_change_are_wrapped() -> None:
    command = vllm_command(replace(ADAPTERS, lora_modules=("q_proj", "v_proj")), "socket")
    after = command[command.index("--lora-target-modules") + 1 :]
    assert list(takewhile(lambda word: not word.startswith("--"), after)) == ["q_proj", "v_proj"]
    assert "--lora-target-modules" not in vllm_command(ADAPTERS, "socket")
