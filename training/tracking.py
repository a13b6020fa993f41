"""MLflow: a finished checkpoint's parameters, metrics, training set, card and place, where a tracking server is named."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from schemas.manifests import CARD_FILE, CHECKPOINT_FILE, CheckpointManifest, TrainingJob

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

_BATCH = 500
# Where a SQLite file's artifacts lie beside it: the store names them relative to what its server is told, so that both
# can be moved together (`mlflow ui --artifacts-destination`).
_ARTIFACTS = "mlflow-artifacts"


def track(
    job: TrainingJob,
    manifest: CheckpointManifest,
    losses: Sequence[tuple[int, float]],
    *,
    limit_s: float = 60.0,
) -> bool:
    """Log a checkpoint to MLflow if the job or `MLFLOW_TRACKING_URI` names a server.

    A server that fails or hangs costs an error line and at most `limit_s` seconds, never the checkpoint. The URI may
    hold a password, so it is not logged.

    Returns:
        Whether everything was logged.
    """
    uri = (job.tracking and job.tracking.uri) or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return False
    outcome: list[BaseException | None] = []

    def attempt() -> None:
        try:
            _log(uri, job, manifest, losses)
            outcome.append(None)
        except Exception as error:  # noqa: BLE001 - whatever a server or its client raises, the checkpoint stands
            outcome.append(error)

    # A daemon, so that a hanging request can't keep the process from ending.
    worker = threading.Thread(target=attempt, name="mlflow", daemon=True)
    worker.start()
    worker.join(limit_s)
    if not outcome:
        log.error(
            "MLflow did not answer within %.0f s; checkpoint %s is not logged there",
            limit_s,
            job.checkpoint_id,
        )
    elif outcome[0] is not None:
        kind = type(outcome[0]).__name__
        log.error(
            "MLflow refused checkpoint %s (%s); the checkpoint itself is whole", job.checkpoint_id, kind
        )
        log.debug("MLflow's error", exc_info=outcome[0])
    return outcome == [None]


def _log(
    uri: str, job: TrainingJob, manifest: CheckpointManifest, losses: Sequence[tuple[int, float]]
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param
    from mlflow.tracking import MlflowClient
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

    client = MlflowClient(tracking_uri=uri)
    wish = job.tracking.experiment if job.tracking else os.environ.get("MLFLOW_EXPERIMENT_NAME")
    number = _experiment(client, experiment_name(uri, wish), f"{_ARTIFACTS}:/" if _folder(uri) else None)
    if _is_logged(client, number, manifest.checkpoint_id):
        return
    name = f"{manifest.role}-{manifest.round}"
    tags = {
        "mart.checkpoint_id": manifest.checkpoint_id,
        "mart.run_id": manifest.run_id,
        "mart.role": manifest.role,
        "mart.round": str(manifest.round),
        "mart.weights_sha256": manifest.weights_sha256,
        "mart.path": _reference(uri, Path(job.destination or job.output)),
    }
    made = client.create_run(number, tags=tags, run_name=name)
    run = made.info.run_id
    # The dataset's digest field takes 36 characters, so the whole root goes into a tag.
    dataset = Dataset(
        name=f"{manifest.role}-training-set", digest=manifest.snapshot_root[:32], source_type="local",
        source=f'{{"root": "{manifest.snapshot_root}"}}', profile=f'{{"rows": {manifest.snapshot_rows}}}',
    )  # fmt: skip
    client.log_inputs(run, [DatasetInput(dataset, [InputTag("mart.snapshot_root", manifest.snapshot_root)])])
    now = int(time.time() * 1000)
    params = [
        Param(key, str(value)[:500]) for key, value in {**manifest.settings, "seed": manifest.seed}.items()
    ]
    metrics = [Metric(key, float(value), now, 0) for key, value in manifest.metrics.items()]
    metrics += [Metric("train_loss", loss, now, step) for step, loss in losses]
    client.log_batch(run, params=params)
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run, metrics=metrics[start : start + _BATCH])
    _copy(client, uri, made, [Path(job.output) / file for file in (CHECKPOINT_FILE, CARD_FILE)])
    # The weights stay where they are: what MLflow holds is a model that names their place and digest.
    model = client.create_logged_model(
        number, name=name, source_run_id=run, tags={**tags, MLFLOW_MODEL_IS_EXTERNAL: "true"}, model_type=manifest.kind
    )  # fmt: skip
    client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    client.finalize_logged_model(model.model_id, "READY")
    client.set_terminated(run)


def _is_logged(client: "MlflowClient", experiment: str, checkpoint_id: str) -> bool:
    """Whether a run has a checkpoint; what a trainer that was killed left half logged is removed."""
    runs = client.search_runs([experiment], f"tags.`mart.checkpoint_id` = '{checkpoint_id}'")
    for run in runs:
        if run.info.status != "FINISHED":
            client.delete_run(run.info.run_id)
    return any(run.info.status == "FINISHED" for run in runs)


def experiment_name(uri: str, wish: str | None) -> str:
    """The experiment that a server logs to, `mart` unless another is wished for.

    Databricks takes nothing but absolute paths in its workspace; every user may write to `/Shared`.
    """
    name = wish or "mart"
    return f"/Shared/{name}" if uri.startswith("databricks") and not name.startswith("/") else name


def _folder(uri: str) -> Path | None:
    """The folder of a SQLite store; None for a server."""
    head, found, path = uri.partition("sqlite:///")
    return Path(path.partition("?")[0]).absolute().parent if found and not head else None


def _reference(uri: str, path: Path) -> str:
    """A checkpoint's path, relative to the store's own folder if it lies there."""
    path, folder = path.absolute(), _folder(uri)
    return path.relative_to(folder).as_posix() if folder and path.is_relative_to(folder) else str(path)


def _copy(client: "MlflowClient", uri: str, run: "Run", files: Sequence[Path]) -> None:
    """Copy small files to a run's artifacts; to those beside a SQLite store directly, for the client asks a server."""
    place, folder = urlparse(run.info.artifact_uri), _folder(uri)
    if folder is None or place.scheme != _ARTIFACTS:
        for file in files:
            client.log_artifact(run.info.run_id, str(file))
        return
    target = folder / _ARTIFACTS / place.path.lstrip("/")
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / file.name)


def _experiment(client: "MlflowClient", name: str, artifacts: str | None = None) -> str:
    """The id of an experiment, made where there is none; a trainer that runs beside this one may make it first."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)
