"""The process a job runs in: threads, determinism, ranks, versions and the lock against a second trainer."""

import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers

from schemas.digests import file_sha256, root_digest
from training.errors import BusyError, JobError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ask the kernel to end this process when the one that `MART_PARENT` names ends; without it, do nothing.

    A driver that is killed then leaves no trainer behind that would hold the device.
    """
    parent = os.environ.get("MART_PARENT")
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if str(os.getppid()) != parent:
        log.error("the process that started this training (%s) has ended; so does this", parent)
        os._exit(4)


def prepare_process() -> None:
    """Threads and deterministic kernels, set before the first tensor.

    `MART_THREADS` sets torch's CPU threads. By default this process gets its share of the cores it may run on, of
    which a GPU job uses at most 8. The number is recorded: on a CPU it takes part in the order of sums.

    A model that has an operation without a deterministic form on a GPU fails, and torch says which; with
    `MART_DETERMINISTIC=warn` it trains, and its digest may not repeat. On a CPU it trains in any case.

    Raises:
        JobError: `MART_THREADS` is not a positive whole number.
    """
    end_with_parent()
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    wish = os.environ.get("MART_THREADS") or str(
        max(1, min(cores, 8) if torch.cuda.is_available() else cores)
    )
    if not wish.isdecimal() or int(wish) < 1:
        raise JobError(f"MART_THREADS is {wish!r}; give a whole number from 1 on")
    torch.set_num_threads(int(wish))
    # On a GPU `warn_only` itself would pick attention's backward kernels that don't repeat
    # (aten/native/transformers/cuda/attention_backward.cu), so it is for who asks for it.
    warn_only = not torch.cuda.is_available() or os.environ.get("MART_DETERMINISTIC") == "warn"
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    # It would also fill every fresh tensor, for whoever reads what was never written: a twentieth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    hub_logging: Any = transformers.utils.logging
    hub_logging.set_verbosity_error()
    hub_logging.disable_progress_bar()


def computing_dtype(wish: str) -> torch.dtype:
    """What a recipe's `dtype` comes to on this device.

    `auto` takes bfloat16 on a GPU that has it and on a CPU with instructions for it (on two AVX-512 cores a training
    step takes 0.7 of the time, `python -m benchmarks.trainer`); elsewhere it would be emulated, more slowly than float32.
    """
    if wish != "auto":
        return torch.bfloat16 if wish == "bfloat16" else torch.float32
    if torch.cuda.is_available():
        computed = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        computed = any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if computed else torch.float32


def rank() -> int:
    """This process's number among all trainers of the job; 0 where there is one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def barrier() -> None:
    """Wait for all processes of the job; nothing where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def shared(value: Any) -> Any:
    """Rank 0's value, in every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def leave_group() -> None:
    """Close the process group that the Trainer opened, so that torchrun ends without a warning."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def environment(dtype: str) -> dict[str, Any]:
    """What the weights may depend on beside the recipe, whose `dtype` it takes: versions, device, number format,
    threads and number of processes.
    """
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "safetensors")},
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "cuda": torch.version.cuda if cuda else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(computing_dtype(dtype)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
    }


def code_version() -> str:
    """A digest of the sources that a checkpoint depends on, for a job that names no version of the code."""
    here = Path(__file__).resolve().parent
    sources = sorted([*here.glob("*.py"), *(here.parent / "schemas").glob("*.py")])
    return (
        "sources:"
        + root_digest(f"{path.parent.name}/{path.name}:{file_sha256(path)}" for path in sources)[:16]
    )


@contextmanager
def only_trainer(scratch: Path) -> Iterator[None]:
    """Hold, on this host, the right to train in a scratch directory; the right ends with the process.

    The lock lies in the host's temporary directory, since a network folder may not know locks; its file goes with it.

    Raises:
        BusyError: another process has it.
    """
    if rank() != 0:
        yield
        return
    name = hashlib.sha256(str(scratch.resolve()).encode()).hexdigest()[:24]
    path = Path(tempfile.gettempdir()) / f"mart-train-{os.getuid()}-{name}.lock"
    held = False
    while not held:
        with path.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"another process trains in {scratch}; wait for it or stop it, then start again"
                ) from None
            # Whoever had it may have removed the file after it was opened here: that lock keeps no one out.
            with contextlib.suppress(FileNotFoundError):
                held = path.stat().st_ino == os.fstat(stream.fileno()).st_ino
            if held:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
