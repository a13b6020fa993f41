"""A checkpoint as one whole model, for an engine that serves it without adapters (`engine.serving: merged`)."""

import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.artifacts import Artifacts
from pipelines.errors import IntegrityError, TrainingFailed
from pipelines.models import LocalModel, cache_folder, local_model
from schemas.manifests import MERGED_FILE

log = logging.getLogger(__name__)


def merged_model(artifacts: Artifacts, row: Mapping[str, Any], base: LocalModel) -> LocalModel:
    """A registered checkpoint in Hugging Face's layout: a whole model where it lies, an adapter merged into its base, once.

    Args:
        artifacts: where checkpoints are, and where merged ones go; executors read them there.
        row: the checkpoint's row in `checkpoints`.
        base: its base.

    Raises:
        TrainingFailed: it can't be merged.
        IntegrityError: the weights are not those that were written.
    """
    checkpoint_id, source = row["checkpoint_id"], artifacts.root / row["path"]
    if row["kind"] == "full":
        return _proved(source, row["weights_sha256"], "train it again")
    target = artifacts.merged(checkpoint_id)
    with only_one(checkpoint_id) as work:
        if _digest_of(target) is None:
            log.info("merging checkpoint %s into a copy of its base", checkpoint_id[:12])
            _merge(source, Path(base.path), work, checkpoint_id)
            # Runs share the checkpoints of warm starts: another host's may have been first, and may be serving its copy.
            if _digest_of(target) is None:
                artifacts.publish(work, target, MERGED_FILE)
    return _proved(target, _digest_of(target), "it is made again")


def _digest_of(folder: Path) -> str | None:
    """The digest of a merged copy's weights, which stands there once all else does."""
    try:
        return str(json.loads((folder / MERGED_FILE).read_text())["weights_sha256"])
    except (FileNotFoundError, ValueError):
        return None


def _proved(folder: Path, digest: str | None, remedy: str) -> LocalModel:
    model = local_model(str(folder))
    if model.digest != digest:
        raise IntegrityError(
            f"{folder} does not hold the weights that it was made with; delete it, and {remedy}"
        )
    return model


@contextmanager
def only_one(checkpoint_id: str) -> Iterator[Path]:
    """A folder of this host's to merge in, for one process at a time; what a killed one left is removed.

    On this host's disk: a volume takes neither renames nor a half-written folder.
    """
    place = cache_folder() / "merging"
    place.mkdir(parents=True, exist_ok=True)
    work = place / checkpoint_id
    with (place / f"{checkpoint_id}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(work, ignore_errors=True)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _merge(source: Path, base: Path, output: Path, checkpoint_id: str) -> None:
    words = ["--checkpoint", str(source), "--base", str(base), "--output", str(output)]
    environment = {**os.environ, "MART_PARENT": str(os.getpid())}
    ended = subprocess.run(
        [sys.executable, "-m", "training.merge", *words], env=environment, check=False
    ).returncode
    if ended:
        raise TrainingFailed(
            f"checkpoint {checkpoint_id[:12]} could not be merged into its base (code {ended}); the words of "
            "training.merge are above"
        )
