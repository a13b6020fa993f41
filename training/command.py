"""What `python -m training.sft` and `python -m training.reward` share: from a manifest to an exit code."""

import argparse
import difflib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from schemas.manifests import (
    CHECKPOINT_FILE,
    CheckpointManifest,
    Kind,
    LoopSettings,
    RewardSettings,
    SftSettings,
    TrackingRef,
    TrainingJob,
)
from training.checkpoints import prove_checkpoint, prove_weights, publish, read_manifest
from training.errors import JobError, ProofError, TrainingError
from training.loop import Fit
from training.runtime import barrier, leave_group, only_trainer, prepare_process, rank
from training.snapshot import load_snapshot
from training.tracking import track

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained model, written in full to `built` by rank 0."""

    built: Path
    fit: Fit
    metrics: dict[str, float | int]


# Trains on the proven rows, with states and the finished model under the given scratch directory.
Train = Callable[[TrainingJob, pa.Table, Path], Trained]


def load_job(path: Path, kind: Kind) -> TrainingJob:
    """The job in a manifest.

    Raises:
        JobError: it can't be read, has an unknown key, a wrong value or is a job of another kind.
    """
    try:
        job = TrainingJob.model_validate_json(path.read_bytes())
    except OSError as error:
        raise JobError(f"the manifest {path} can't be read: {error.strerror}") from None
    except ValidationError as error:
        raise JobError(f"{path}: " + "; ".join(_explain(item) for item in error.errors())) from None
    if job.kind != kind:
        raise JobError(f"{path} is a job of kind {job.kind!r}; start it with python -m training.{job.kind}")
    return job


def _explain(error: object) -> str:
    item = json.loads(json.dumps(error, default=str))
    place = ".".join(str(part) for part in item["loc"]) or "manifest"
    if item["type"] != "extra_forbidden":
        return f"{place}: {item['msg']}, not {json.dumps(item['input'])[:80]}"
    models = (TrainingJob, SftSettings, RewardSettings, LoopSettings, TrackingRef)
    names = sorted({name for model in models for name in model.model_fields})
    near = difflib.get_close_matches(str(item["loc"][-1]), names, n=1)
    return f"{place}: unknown key" + (f", did you mean {near[0]!r}?" if near else "")


def finished(job: TrainingJob) -> CheckpointManifest | None:
    """The checkpoint that already is in the job's output, proved; None if it was never finished.

    Raises:
        ProofError: it is another checkpoint, or differs from its manifest.
    """
    output = Path(job.output)
    if not (output / CHECKPOINT_FILE).exists():
        return None
    manifest = prove_checkpoint(output)
    wanted = (job.checkpoint_id, job.base.digest, job.snapshot.root, job.seed, job.settings.recipe())
    settings = type(job.settings).model_validate(manifest.settings).recipe()
    there = (manifest.checkpoint_id, manifest.base_digest, manifest.snapshot_root, manifest.seed, settings)
    if wanted != there:
        raise ProofError(
            f"{output} holds checkpoint {manifest.checkpoint_id}, made by another recipe than this job's; "
            "give the job another output directory"
        )
    return manifest


def prove_sources(job: TrainingJob) -> None:
    """Compare the base and the parent with the digests that the job names, and the parent's other files with its manifest.

    Raises:
        ProofError: weights or files differ, or the parent was made from another base.
    """
    prove_weights(Path(job.base.path), job.base.digest, "base")
    if job.parent is None:
        return
    path = Path(job.parent.path)
    parent = prove_checkpoint(path)
    for name, found, wanted in (
        ("weights", parent.weights_sha256, job.parent.digest),
        ("checkpoint id", parent.checkpoint_id, job.parent.checkpoint_id),
        ("base", parent.base_digest, job.base.digest),
        ("kind", parent.kind, job.kind),
        # One reward model may begin with the other; an adversary is no target.
        *([] if job.kind == "reward" else [("role", parent.role, job.role)]),
        ("method", parent.settings.get("method"), job.settings.model_dump().get("method")),
    ):
        if found != wanted:
            raise ProofError(
                f"the parent {path} has {name} {found}, the job asks for {wanted}; correct the job's parent"
            )


def run(job: TrainingJob, train: Train) -> CheckpointManifest:
    """Prove, train and publish a job's checkpoint; if it is there already, only prove it.

    Raises:
        TrainingError: see `training.errors`.
    """
    started = time.monotonic()
    output = Path(job.output)
    scratch = Path(job.scratch) if job.scratch else output.parent
    scratch = scratch / f"{job.checkpoint_id}.work"
    with only_trainer(scratch):
        if (there := finished(job)) is not None:
            log.info("checkpoint %s is in %s and proves right; nothing to do", job.checkpoint_id, output)
            if rank() == 0 and scratch.exists():  # of a trainer that was killed before it had logged it
                track(job, there, ())
                shutil.rmtree(scratch, ignore_errors=True)
            return there
        rows = load_snapshot(Path(job.snapshot.path), job.snapshot.root, job.snapshot.rows)
        prove_sources(job)
        scratch.mkdir(parents=True, exist_ok=True)
        trained = train(job, rows, scratch)
        if rank() == 0:
            manifest = publish(job, trained.built, trained.fit, trained.metrics)
            track(job, manifest, trained.fit.losses)
            shutil.rmtree(scratch)
        barrier()
        if rank() != 0:
            manifest = read_manifest(output)
        log.info(
            "checkpoint %s: %d rows, %d steps, loss %.4f to %.4f, weights %s, %.1f s",
            job.checkpoint_id, job.snapshot.rows, manifest.metrics["steps"], manifest.metrics["train_loss_start"],
            manifest.metrics["train_loss_end"], manifest.weights_sha256[:12], time.monotonic() - started,
        )  # fmt: skip
        return manifest


def main(kind: Kind, train: Train, arguments: Sequence[str] | None = None) -> int:
    """The command line of a trainer.

    Returns:
        0 done or already there; 2 the manifest can't be used; 3 data or weights don't prove; 4 training failed.
    """
    parser = argparse.ArgumentParser(prog=f"python -m training.{kind}")
    parser.add_argument("--manifest", type=Path, required=True, help="the job, as JSON")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    options = parser.parse_args(arguments)
    level = options.log_level if rank() == 0 else "WARNING"
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("training").setLevel(level)
    try:
        prepare_process()
        run(load_job(options.manifest, kind), train)
    except TrainingError as error:
        log.error("%s", error)
        return error.exit_code
    except (RuntimeError, OSError, ValueError) as error:
        log.exception("training failed: %s", error)
        return 4
    leave_group()
    return 0
