"""LoRA adapters on a running vLLM engine: loaded once, and proved to change what the engine says.

vLLM keeps `max_cpu_loras` adapters in memory and drops the least recently used one itself; as each request carries the
adapter's name and path, it loads a dropped one again (vllm/lora/worker_manager.py, LRUCacheWorkerLoRAManager). So
nothing is unloaded here, and an adapter's directory must stay until the engine ends. A module of an adapter that
matches nothing in the model is only a debug line in vLLM, hence the proof.
"""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.engines import uds
from pipelines.engines.homes import EngineDirectory, write_json
from pipelines.engines.host import EngineHandle
from pipelines.engines.protocol import Adapter
from pipelines.errors import EngineError

# Small ids are in every vocabulary; what they spell does not matter.
PROBE = [11, 23, 35, 47, 59, 71, 83, 95, 107, 119, 131, 143, 155, 167, 179, 191]
_log = logging.getLogger(__name__)


def ensure_adapter(
    directory: EngineDirectory, engine: EngineHandle, adapter: Adapter, *, patience: float
) -> None:
    """Have the engine serve an adapter, and prove once per start of the engine that it changes the output.

    Safe to call from many processes: a host-local lock orders them, the first one loads and proves.

    Args:
        directory, engine, adapter: the engine's directory, the engine, what it is to serve.
        patience: seconds that loading may take, and each of three likelihoods.

    Raises:
        EngineError: the engine can't load the adapter, or answers with it as it does without it.
        OSError: the engine is dead, or does not answer in time.
    """
    with directory.locked("adapters"):
        proofs = _read_proofs(directory, engine)
        if proofs.get(adapter.name, {}).get("path") == adapter.path:
            return
        _load(engine, adapter, patience)
        logprobs = [_logprobs(engine, name, patience) for name in ("base", "base", adapter.name)]
        proofs[adapter.name] = {"path": adapter.path, **prove_change(adapter, *logprobs)}
        write_json(directory.proofs_path, {"ident": engine.ident, "adapters": proofs})


def _read_proofs(directory: EngineDirectory, engine: EngineHandle) -> dict[str, Any]:
    try:
        content = json.loads(directory.proofs_path.read_text())
    except (OSError, ValueError):
        return {}
    return dict(content["adapters"]) if content.get("ident") == engine.ident else {}


def _load(engine: EngineHandle, adapter: Adapter, patience: float) -> None:
    if not Path(adapter.path, "adapter_config.json").is_file():
        raise EngineError(f"adapter {adapter.name!r}: {adapter.path} holds no adapter_config.json")
    body = {"lora_name": adapter.name, "lora_path": str(Path(adapter.path).absolute())}
    status, text = uds.call(engine.socket, "POST", "/v1/load_lora_adapter", body, timeout=patience)
    if status != 200 and "has already been loaded" not in text:
        raise EngineError(f"the engine can't load adapter {adapter.name!r} from {adapter.path}: {text[:500]}")


def prove_change(
    adapter: Adapter, base: Sequence[float], again: Sequence[float], adapted: Sequence[float]
) -> dict[str, Any]:
    """Compare the log probabilities of `PROBE`'s tokens, from the second on, with and without an adapter.

    Args:
        adapter: the adapter.
        base, again: without it, asked twice.
        adapted: with it.

    Returns:
        The largest difference, the engine's own noise between two equal calls, and whether the adapter is untrained
        (every lora_B zero, as PEFT initialises it), in which case no difference is expected.

    Raises:
        EngineError: a trained adapter makes no difference beyond the noise, or a value is no number.
    """
    noise, change = _distance(base, again), _distance(base, adapted)
    untrained = is_untrained(Path(adapter.path))
    if untrained:
        _log.warning(
            "adapter %s is untrained: every lora_B is zero, so it answers as the base does", adapter.name
        )
    elif change <= 2 * noise:
        raise EngineError(
            f"adapter {adapter.name!r} does not change the engine's output (largest difference of log probabilities "
            f"{change:g}, noise {noise:g}): its modules match nothing in the model; check its target_modules"
        )
    return {"change": change, "noise": noise, "untrained": untrained}


def is_untrained(path: Path) -> bool:
    """Whether every lora_B of an adapter in PEFT's format is zero."""
    from safetensors import safe_open

    weights = path / "adapter_model.safetensors"
    if not weights.is_file():
        return False
    with safe_open(str(weights), framework="pt") as tensors:
        names = [name for name in tensors.keys() if "lora_B" in name or "lora_embedding_B" in name]  # noqa: SIM118
        return bool(names) and all(not tensors.get_tensor(name).any() for name in names)


def _logprobs(engine: EngineHandle, model: str, patience: float) -> list[float]:
    body = {"model": model, "prompt": PROBE, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
    status, text = uds.call(engine.socket, "POST", "/v1/completions", body, timeout=patience)
    if status != 200:
        raise EngineError(f"the engine can't answer a probe with model {model!r}: {text[:500]}")
    places = json.loads(text)["choices"][0]["prompt_logprobs"]
    return [float(place[str(token)]["logprob"]) for place, token in zip(places[1:], PROBE[1:], strict=True)]


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    largest = max(abs(a - b) for a, b in zip(one, other, strict=True))
    if math.isnan(largest):
        raise EngineError("the engine gives log probabilities that are no numbers; use dtype float32")
    return largest
