"""The command line and environment of a vLLM server for a spec: settings as data, each with its reason."""

import gc
import math
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from pipelines.engines.forked import FORKED
from pipelines.engines.grouped_lora import GROUPED_LORA
from pipelines.engines.protocol import GeneratorSpec
from pipelines.errors import ConfigError

# Ranks that vLLM's LoRA buffers come in (vllm/config/lora.py, MaxLoRARanks).
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Spark gives its Python workers these; a server that inherits them runs on one thread.
_DROPPED = ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@cache
def has_gpu() -> bool:
    """Whether torch sees a CUDA device here."""
    import torch

    return bool(torch.cuda.is_available())


def empty_gpu() -> None:
    """Give back what torch holds of a GPU's memory for tensors that are no more; what CUDA needs for a process stays."""
    if has_gpu():
        import torch

        gc.collect()
        torch.cuda.empty_cache()


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of this host's CPU, as the kernel names them."""
    try:
        with open("/proc/cpuinfo") as stream:
            for line in stream:
                if line.startswith(("flags", "Features")):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def resolve_dtype(dtype: str) -> str:
    """The number format that `auto` stands for on this host.

    bfloat16 where the CPU computes it (AVX-512 and up, or Arm's bf16), else float32: with AVX2 alone vLLM
    emulates bfloat16 so slowly that it looks hung (measured: 128 requests, no answer in 100 s). On a GPU vLLM decides.
    """
    if dtype != "auto" or has_gpu():
        return dtype
    return "bfloat16" if cpu_flags() & {"avx512f", "avx512_bf16", "amx_bf16", "bf16"} else "float32"


def lora_rank(rank: int) -> int:
    """The smallest rank that vLLM has buffers for and that holds `rank`.

    Raises:
        ConfigError: the rank is larger than any.
    """
    for size in _LORA_RANKS:
        if rank <= size:
            return size
    raise ConfigError(
        f"max_lora_rank is {rank}, vLLM serves at most {_LORA_RANKS[-1]}; train a smaller adapter"
    )


def bound_cores(threads: int) -> str:
    """Cores for the engine's threads, as `VLLM_CPU_OMP_THREADS_BIND` wants them: `0,1`. 0 takes all allowed ones."""
    cores = sorted(os.sched_getaffinity(0))
    return ",".join(str(core) for core in cores[: threads or len(cores)])


def engine_arguments(spec: GeneratorSpec) -> dict[str, Any]:
    """What vLLM's engine is set up with, as the keywords of `vllm.LLM`.

    On the CPU a per-request seed kills the engine if its prompt is prefilled in parts: the runner winds the row's
    generator back, and torch's CPU generator can't ("CPU Generator does not use offset"). vLLM's scheduler never splits a
    prefill when chunked prefill is off (`Scheduler.schedule` then stops at a request that exceeds the step's
    budget, and a preempted request comes back the same way), given a budget of at least one longest prompt.

    `options["compile"]` compiles the model on the CPU as well.

    Raises:
        ConfigError: adapters in a number format that they can't be served in.
    """
    arguments: dict[str, Any] = {
        "model": spec.model,
        "dtype": resolve_dtype(spec.dtype),
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_num_seqs,
        "seed": 0,
        # What is trained, and digested: where Mistral's own format lies beside it, vLLM would take that.
        "load_format": "hf",
        "config_format": "hf",
        "tokenizer_mode": "hf",
    }
    if spec.serves == "verdicts":
        arguments["runner"] = "pooling"
    else:
        arguments["scheduling_policy"] = "priority"
    if has_gpu():
        arguments["gpu_memory_utilization"] = spec.memory_share
    else:
        arguments["kv_cache_memory_bytes"] = math.ceil(spec.kv_cache_gib * 2**30)
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(spec.max_model_len, spec.max_num_seqs, 8192)
        # Several answers to a prompt share what whole blocks of it came to; vLLM's 128 tokens are longer than most prompts.
        arguments["block_size"] = 32
        arguments["enforce_eager"] = not spec.options.get("compile", False)
    if spec.max_adapters:
        if has_gpu() and spec.dtype == "float32":
            # vllm/lora/ops/triton_ops/lora_shrink_op.py asserts it, without a word, minutes into the start.
            raise ConfigError(
                "engine.dtype is float32, and vLLM's kernels for adapters on a GPU take 16 bits only; set it to auto, bfloat16 or "
                "float16, or engine.serving to merged"
            )
        arguments["enable_lora"] = True
        arguments["max_loras"] = spec.max_adapters
        arguments["max_cpu_loras"] = 2 * spec.max_adapters
        arguments["max_lora_rank"] = lora_rank(spec.max_lora_rank)
        if spec.lora_modules:
            # What no adapter changes is left as it is. Above all the head: with it, vLLM's kernels on a GPU read and write beyond
            # the rows of `prompt_logprobs` that they were given (vllm issue 51594, pull request 53842).
            arguments["lora_target_modules"] = list(spec.lora_modules)
    return arguments


def vllm_command(spec: GeneratorSpec, socket: str) -> list[str]:
    """The API server's command line.

    `options["server_args"]` adds or replaces arguments (`{"max-num-batched-tokens": 16384}`); a value of True is a bare
    flag, False leaves the argument out.
    """
    wanted: Mapping[str, Any] = spec.options.get("server_args", {})
    arguments = {name.replace("_", "-"): value for name, value in engine_arguments(spec).items()}
    arguments |= {"served-model-name": "base", "uds": socket, "disable-uvicorn-access-log": True, **wanted}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in arguments.items():
        if wanted.get(name) is False:
            continue
        if isinstance(value, bool):
            command.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            command += [f"--{name}", *(str(part) for part in value)]
        else:
            command += [f"--{name}", str(value)]
    return command


def engine_command(spec: GeneratorSpec, socket: str) -> list[str]:
    """The server's command line; `options["server_command"]`, in which `{socket}` stands for the path, replaces it."""
    injected = spec.options.get("server_command")
    if injected is not None:
        return [str(part).replace("{socket}", socket) for part in injected]
    return vllm_command(spec, socket)


def server_environment(spec: GeneratorSpec) -> tuple[dict[str, str], tuple[str, ...]]:
    """Variables to set for a server of our own, and variables to take away from what it inherits.

    `options["fork"]` has a CPU's server start in half the time, and generate more slowly (docs/architecture.md).
    """
    settings, dropped = engine_environment(spec)
    if has_gpu() or not spec.options.get("fork", False):
        return settings, dropped
    # So many threads, and none bound to a core: the whole server would be, and not its worker alone.
    threads = str(bound_cores(spec.threads).count(",") + 1)
    return {FORKED: "1", "OMP_NUM_THREADS": threads, **settings}, dropped


def engine_environment(spec: GeneratorSpec) -> tuple[dict[str, str], tuple[str, ...]]:
    """What any process needs in which vLLM is to run as in our servers."""
    extra: Mapping[str, Any] = spec.options.get("server_env", {})
    settings = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": bound_cores(spec.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if not has_gpu():
        # vLLM ends an engine whose iteration takes 300 s; whether one hangs is for its clients to tell (session.py).
        settings["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] = "86400"
        if spec.max_adapters:
            settings[GROUPED_LORA] = "logits" if spec.options.get("compile", False) else "all"
    return settings | {name: str(value) for name, value in extra.items()}, (
        *_DROPPED,
        "VLLM_CPU_KVCACHE_SPACE",
    )
