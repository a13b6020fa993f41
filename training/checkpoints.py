"""A checkpoint's directory: written whole with `checkpoint.json` last, and proved before it is used."""

import errno
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from schemas.digests import tensors_sha256
from schemas.manifests import (
    CARD_FILE,
    CHECKPOINT_FILE,
    CheckpointManifest,
    FileEntry,
    TrainingJob,
    weight_files,
    weights_sha256,
)
from training.cards import model_card
from training.errors import ProofError
from training.loop import Fit
from training.runtime import code_version, environment

log = logging.getLogger(__name__)

# What a model's directory holds beside weights and configuration that a tokenizer or a server needs.
_TOKENIZER_FILES = (
    "tokenizer*", "*token*.json", "vocab.*", "merges.txt", "chat_template*", "generation_config.json", "*.model",
)  # fmt: skip


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy tokenizer, chat template and generation settings byte for byte: saving them anew might rewrite them.

    Settings that the source lacks are taken away, so that a server makes its own of the configuration, as it does for the source.
    """
    (target / "generation_config.json").unlink(missing_ok=True)
    for path in sorted({path for pattern in _TOKENIZER_FILES for path in source.glob(pattern)}):
        if path.is_file():
            shutil.copyfile(path, target / path.name)


def normalise_adapter_config(directory: Path, base_digest: str) -> None:
    """Make `adapter_config.json` the same on every machine: the base by its digest, lists that were sets in order."""
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = f"sha256:{base_digest}"
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def publish(
    job: TrainingJob, built: Path, fit: Fit, metrics: Mapping[str, float | int]
) -> CheckpointManifest:
    """Copy a finished model from scratch to the job's output, and write `checkpoint.json` last.

    Args:
        job: the job that was done.
        built: local directory with weights, configuration and, for a whole model, its tokenizer.
        fit: the training.
        metrics: what else was measured.
    """
    output = Path(job.output)
    manifest = CheckpointManifest(
        checkpoint_id=job.checkpoint_id,
        kind=job.kind,
        role=job.role,
        round=job.round,
        run_id=job.run_id,
        base_digest=job.base.digest,
        parent_checkpoint_id=job.parent.checkpoint_id if job.parent else None,
        parent_digest=job.parent.digest if job.parent else None,
        snapshot_root=job.snapshot.root,
        snapshot_rows=job.snapshot.rows,
        weights_sha256=weights_sha256(built),
        files=(),
        settings=job.settings.model_dump(mode="json"),
        seed=job.seed,
        code_version=job.code_version or code_version(),
        environment=environment(job.settings.dtype),
        metrics={**fit.metrics(), **metrics},
        resumed=fit.resumed,
    )
    (built / CARD_FILE).write_text(model_card(manifest))
    files = tuple(FileEntry.of(path) for path in sorted(built.iterdir()))
    manifest = manifest.model_copy(update={"files": files})
    output.mkdir(parents=True, exist_ok=True)
    for entry in files:
        shutil.copyfile(built / entry.name, output / entry.name)
    _put_last(output / CHECKPOINT_FILE, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def _put_last(path: Path, text: str) -> None:
    """Write a manifest whole or not at all; a root without rename gets it in one write, which its reader proves."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in _NO_ROOM:
            raise
        log.info("%s can't be renamed into place (%s), writing it there", path.name, error)
        path.write_text(text)


def read_manifest(directory: Path) -> CheckpointManifest:
    """The manifest of a checkpoint, not yet compared with its files.

    Raises:
        ProofError: there is none, or it is not one.
    """
    path = directory / CHECKPOINT_FILE
    try:
        return CheckpointManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ProofError(f"{path} is missing, so the checkpoint was never finished; train it again") from None
    except ValidationError as error:
        raise ProofError(
            f"{path} is not a checkpoint manifest ({error}); delete the directory and train again"
        ) from None


def prove_checkpoint(directory: Path) -> CheckpointManifest:
    """The manifest of a checkpoint whose every file and tensor was compared with it.

    Raises:
        ProofError: something differs; the message names the file.
    """
    manifest = read_manifest(directory)
    if wrong := manifest.differences(directory):
        raise ProofError(
            f"checkpoint {manifest.checkpoint_id}: {'; '.join(wrong)}; delete the directory and train again"
        )
    return manifest


def prove_weights(directory: Path, expected: str, what: str) -> None:
    """Compare the tensors in a model's directory with a digest.

    Raises:
        ProofError: they differ, or there are none.
    """
    try:
        found = tensors_sha256(weight_files(directory))
    except (OSError, ValueError, KeyError) as error:
        raise ProofError(f"{what}: the weights in {directory} can't be read: {error}") from error
    if found != expected:
        raise ProofError(f"{what}: the weights in {directory} have digest {found}, expected {expected}")
