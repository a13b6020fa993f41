"""A checkpoint as one whole model, for an engine that serves it without adapters (`engine.serving: merged`)."""

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping
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
        IntegrityError: a merged copy is not what it was when it was made.
    """
    checkpoint_id, source = row["checkpoint_id"], artifacts.root / row["path"]
    if row["kind"] == "full":
        return local_model(str(source))
    target = artifacts.merged(checkpoint_id)
    if not (target / MERGED_FILE).exists():
        log.info("merging checkpoint %s into a copy of its base", checkpoint_id[:12])
        cache_folder().mkdir(parents=True, exist_ok=True)
        # On this machine's disk: a volume takes neither renames nor a half-written folder.
        with tempfile.TemporaryDirectory(prefix="merge-", dir=cache_folder()) as name:
            words = ["--checkpoint", str(source), "--base", base.path, "--output", str(Path(name, "merged"))]
            ended = subprocess.run([sys.executable, "-m", "training.merge", *words], check=False).returncode
            if ended:
                raise TrainingFailed(
                    f"checkpoint {checkpoint_id[:12]} could not be merged into its base (code {ended}); the words of "
                    "training.merge are above"
                )
            artifacts.publish(Path(name, "merged"), target, MERGED_FILE)
    model = local_model(str(target))
    if model.digest != json.loads((target / MERGED_FILE).read_text())["weights_sha256"]:
        raise IntegrityError(f"{target} is not what was merged; delete it, and it is made again")
    return model
