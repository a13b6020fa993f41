"""MLflow: a finished checkpoint's parameters, metrics and training set, where a tracking server is named."""

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.manifests import CheckpointManifest, TrainingJob

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

_BATCH = 500


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
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    name = job.tracking.experiment if job.tracking else os.environ.get("MLFLOW_EXPERIMENT_NAME", "mart")
    number = _experiment(client, name)
    tags = {
        "mart.checkpoint_id": manifest.checkpoint_id,
        "mart.run_id": manifest.run_id,
        "mart.role": manifest.role,
        "mart.round": str(manifest.round),
        "mart.weights_sha256": manifest.weights_sha256,
    }
    run = client.create_run(number, tags=tags, run_name=f"{manifest.role}-{manifest.round}").info.run_id
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
    client.set_terminated(run)


def _experiment(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, made where there is none; a trainer that runs beside this one may make it first."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)
