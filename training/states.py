"""Resumable states of a training run: which of them are whole, which is the newest, which can go.

The Trainer writes a state's files one by one. A state counts once `complete.json` is in it, which is written last.
"""

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.runtime import barrier, rank, world_size

log = logging.getLogger(__name__)

STATE_WEIGHTS = "model-state.safetensors"  # of a model that learns whole
_MARKER = "complete.json"
_FORMAT = 2  # of a state; one of another is not whole
_KEPT = 2


def write_json(path: Path, value: Any) -> None:
    """Put a JSON file in place whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as stream:
        json.dump(value, stream, sort_keys=True, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)


def newest_state(directory: Path, identity: str) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole state of this very job, and its marker; all others are deleted.

    A state is whole when its marker is there, of this format, and every file that it lists has its size. It is of the job
    when its identity and number of processes are the job's.
    """
    best: tuple[Path, dict[str, Any]] | None = None
    for path in sorted(directory.glob("checkpoint-*"), key=_step, reverse=True):
        marker = _whole(path)
        if (
            best is None
            and marker is not None
            and (marker["identity"], marker["processes"]) == (identity, world_size())
        ):
            best = path, marker
            continue
        reason = (
            "an older one"
            if best
            else "of another job or another number of processes"
            if marker
            else "not whole"
        )
        if best is None:
            log.info("discarding the state %s: it is %s", path.name, reason)
        shutil.rmtree(path)
    return best


def _step(path: Path) -> int:
    suffix = path.name.rpartition("-")[2]
    return int(suffix) if suffix.isdecimal() else -1


def _whole(path: Path) -> dict[str, Any] | None:
    try:
        marker: dict[str, Any] = json.loads((path / _MARKER).read_text())
        sizes = {name: (path / name).stat().st_size for name in marker["files"]}
    except (OSError, ValueError, KeyError):
        return None
    return marker if sizes == marker["files"] and marker.get("format") == _FORMAT else None


class StateKeeper(TrainerCallback):
    """Marks each state as whole once all its files are written, and deletes states older than the one before it.

    Attributes:
        resumed: how often training went on from a state, this process included.
        earlier: seconds that earlier processes trained up to the state.
    """

    def __init__(self, identity: str, resumed: int, earlier: float) -> None:
        self.identity = identity
        self.resumed = resumed
        self.earlier = earlier
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, earlier processes included."""
        return self.earlier + time.monotonic() - self._started

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the marker, when every process has written its part."""
        barrier()
        if rank() != 0:
            return
        root = Path(str(args.output_dir))
        current = root / f"checkpoint-{state.global_step}"
        files = {file.name: file.stat().st_size for file in current.iterdir() if file.name != _MARKER}
        marker = {
            "format": _FORMAT,
            "identity": self.identity,
            "processes": world_size(),
            "resumed": self.resumed,
            "seconds": self.seconds,
            "torch": torch.__version__,
            "files": files,
        }
        write_json(current / _MARKER, marker)
        for path in sorted(root.glob("checkpoint-*"), key=_step)[:-_KEPT]:
            shutil.rmtree(path)
