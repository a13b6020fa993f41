"""Training as Spark sees it: a proved snapshot goes out, a proved checkpoint comes back and is registered."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd
from pydantic import ValidationError
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from pipelines.artifacts import Artifacts
from pipelines.config import RunConfig
from pipelines.errors import IntegrityError, TrainingFailed
from pipelines.lakehouse import Lakehouse
from pipelines.models import LocalModel, TokenizerFiles, cache_folder, rendering
from schemas.digests import canonical_json, digest, root_digest, seed_from
from schemas.manifests import (
    CHECKPOINT_FILE,
    REWARD_COLUMNS,
    SFT_COLUMNS,
    SNAPSHOT_FILE,
    CheckpointManifest,
    FileEntry,
    ModelRef,
    ParentRef,
    RewardSettings,
    SftSettings,
    SnapshotManifest,
    SnapshotRef,
    TrainingJob,
    parse_messages,
    reward_example_sha256,
    sft_example_sha256,
)
from schemas.rendering import render

log = logging.getLogger(__name__)

WARM_RUN = "bootstrap"  # the run id of what belongs to no run: reward models and warm starts
REWARD_ROLES = {"safety_rm": "safety", "helpfulness_rm": "helpfulness"}
_AGAIN = "run the same command again to go on from its last saved state"
_EXIT_WORDS = {
    2: ("its manifest is not usable", "the same command fails again until what they name is mended"),
    3: ("its training set does not prove", "`mart verify` says what differs"),
    4: ("the training itself failed", _AGAIN),
}


def settings_for(config: RunConfig, role: str, round: int) -> SftSettings | RewardSettings:
    """The training settings of a role in a round; those of round 0 are the warm start's."""
    if role in REWARD_ROLES:
        return config.reward_models[REWARD_ROLES[role]].settings  # type: ignore[index]
    training = config.adversary if role == "adversary" else config.target
    if round == 0:
        return training.warm_settings or training.settings
    rate = training.settings.learning_rate * training.rate_decay ** (round - 1)
    return training.settings.model_copy(update={"learning_rate": rate})


def base_source(config: RunConfig, role: str) -> str:
    """The model source that a role starts from."""
    return config.reward_models[REWARD_ROLES[role]].base if role in REWARD_ROLES else config.model  # type: ignore[index]


def mark_fitting(frame: DataFrame, base: str, max_length: int) -> DataFrame:
    """Curated rows with `fits`: whether the rendered prompt leaves a completion any of a trainer's `max_length` tokens.

    Args:
        frame: rows with `input`.
        base: directory of the model whose tokenizer renders.
        max_length: tokens of prompt and completion.

    Raises (where the frame is computed):
        ConfigError: the model has no chat template, or one that can't render a row.
    """

    files = TokenizerFiles.of(base)  # the base itself may be on the driver's node only

    def fits(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        tokenizer = files.load()
        for batch in batches:
            with rendering(tokenizer, base, "a training set"):
                fitting = batch.map(lambda text: len(render(tokenizer, parse_messages(text))) < max_length)
            yield fitting

    return frame.withColumn("fits", pandas_udf(fits, "boolean")("input"))  # type: ignore[call-overload]


def number_examples(frame: DataFrame, role: str) -> tuple[DataFrame, DataFrame]:
    """Curated rows that fit, with their position and digest, and those that don't.

    The same rows give the same numbers, whatever their partitions.
    """
    schema = "position long, example_sha256 string"
    reward = role in REWARD_ROLES

    def digests(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            rows = []
            for row in batch.itertuples(index=False):
                if reward:
                    label = None if pd.isna(row.label) else float(row.label)
                    rejected = None if pd.isna(row.rejected) else row.rejected
                    value = reward_example_sha256(row.input, row.output, label, rejected, row.split)
                else:
                    value = sft_example_sha256(row.input, row.output, row.weight, role)
                rows.append((row.position, value))
            yield pd.DataFrame(rows, columns=["position", "example_sha256"])

    turn = Window.partitionBy("fits").orderBy("order", "input", "output")
    numbered = (
        frame.withColumn("position", (F.row_number().over(turn) - 1).cast("long")).drop("order").persist()
    )
    fitting = numbered.where("fits").drop("fits")
    content = fitting.select("position", "input", "output", "weight", "label", "rejected", "split")
    return fitting.join(content.mapInPandas(digests, schema), on="position", how="inner"), numbered.where(
        "NOT fits"
    )


def training_root(numbered: DataFrame) -> tuple[str, int]:
    """The digest over a numbered set's rows and their number, streamed through the driver."""
    rows = 0

    def digests() -> Iterator[str]:
        nonlocal rows
        for row in numbered.select("position", "example_sha256").orderBy("position").toLocalIterator():
            if row["position"] != rows:
                raise IntegrityError(f"training rows lack position {rows}")
            rows += 1
            yield row["example_sha256"]

    root = root_digest(digests())
    return root, rows


def recipe_of(
    config: RunConfig,
    role: str,
    round: int,
    run_id: str,
    base: LocalModel,
    parent: str | None,
    root: str,
    rows: int,
) -> dict[str, Any]:
    """What decides a checkpoint's weights; its digest is the checkpoint's id."""
    warm = run_id == WARM_RUN
    seed = seed_from(digest([0 if warm else config.seed, role, round]))
    return {
        "run_id": run_id,
        "role": role,
        "round": round,
        "base_digest": base.digest,
        "parent": parent,
        "training_root": root,
        "training_rows": rows,
        "settings": settings_for(config, role, round).recipe(),
        "seed": seed,
    }


@dataclass(frozen=True, slots=True)
class Order:
    """What the train step asks for.

    Attributes:
        checkpoint_id, recipe: from the curate step.
        base: the base model.
        parent: the parent's row in `checkpoints`, if there is one.
        settings: training settings, those of speed included.
    """

    checkpoint_id: str
    recipe: Mapping[str, Any]
    base: LocalModel
    parent: Mapping[str, Any] | None
    settings: SftSettings | RewardSettings
    code_version: str


def train(
    lakehouse: Lakehouse,
    artifacts: Artifacts,
    trainers: "Trainers",
    order: Order,
    version: int,
    meanwhile: Callable[[], None],
) -> tuple[CheckpointManifest, float]:
    """Export the set, run a trainer, prove what it wrote and publish it.

    Args:
        lakehouse, artifacts: where the set is, and where what comes of it goes.
        trainers: where the trainer comes from.
        order: what is asked for.
        version: of `training_examples`.
        meanwhile: done while the trainer runs, and over when this returns; may be done twice.

    Returns:
        The checkpoint's manifest and the seconds the trainer ran.

    Raises:
        TrainingFailed: the trainer ended without a checkpoint, or with one that does not prove.
    """
    snapshot = export_snapshot(lakehouse, artifacts, order, version)
    work = cache_folder() / "training" / order.checkpoint_id
    output = work / "checkpoint"
    work.mkdir(parents=True, exist_ok=True)
    job = _job(artifacts, order, snapshot, output)
    path = work / "job.json"
    path.write_text(job.model_dump_json(indent=1))
    log.info(
        "training %s of round %s (%s rows)",
        order.recipe["role"], order.recipe["round"], order.recipe["training_rows"],
    )  # fmt: skip
    started = time.monotonic()
    with ThreadPoolExecutor(1, thread_name_prefix="meanwhile") as pool:
        beside = pool.submit(meanwhile)
        ended = trainers.run(job.kind, path)
        seconds = time.monotonic() - started
    if (error := beside.exception()) is not None:
        log.warning("what was done beside the training failed", exc_info=error)
    if ended:
        words, remedy = _EXIT_WORDS.get(ended, (f"it was ended by signal or code {ended}", _AGAIN))
        raise TrainingFailed(
            f"training of {order.recipe['role']} {order.checkpoint_id[:12]} failed: {words}; "
            f"its own words are above; {remedy}"
        )
    target = artifacts.checkpoint(order.checkpoint_id)
    # What is whole there is of another run that shares this checkpoint and was first: its row may be there already.
    if not _is_whole(target):
        artifacts.publish(output, target, CHECKPOINT_FILE)
    manifest = prove_checkpoint(target)
    if (
        manifest.checkpoint_id != order.checkpoint_id
        or manifest.snapshot_root != order.recipe["training_root"]
    ):
        raise TrainingFailed(
            f"{target} holds another checkpoint than {order.checkpoint_id}: delete it and run again"
        )
    if error is not None:
        meanwhile()  # once more; until it is done, the trainer's own folder stays, from which nothing need be trained again
    shutil.rmtree(work, ignore_errors=True)
    return manifest, seconds


def export_snapshot(
    lakehouse: Lakehouse, artifacts: Artifacts, order: Order, version: int
) -> SnapshotManifest:
    """Write the set as Parquet, read at a pinned version, with a manifest that says what it must prove to hold."""
    role = order.recipe["role"]
    columns = REWARD_COLUMNS if role in REWARD_ROLES else SFT_COLUMNS
    folder = artifacts.snapshot(order.checkpoint_id)
    rows = (
        lakehouse.read("training_examples", version)
        .where(F.col("checkpoint_id") == order.checkpoint_id)
        .select(*columns)
        .orderBy("position")
    )
    # Databricks overwrites by marks: the files of an earlier attempt would stay.
    shutil.rmtree(folder, ignore_errors=True)
    rows.coalesce(1).write.mode("overwrite").parquet(str(folder))
    for checksum in folder.glob(".*.crc"):  # Hadoop's own, which no one reads here
        checksum.unlink()
    _remove_uncommitted(rows, folder)
    manifest = SnapshotManifest(
        table="training_examples",
        table_version=version,
        rows=order.recipe["training_rows"],
        columns=tuple(columns),
        root=order.recipe["training_root"],
        files=tuple(FileEntry.of(file) for file in sorted(folder.glob("*.parquet"))),
    )
    (folder / SNAPSHOT_FILE).write_text(manifest.model_dump_json(indent=1))
    return manifest


def _remove_uncommitted(rows: DataFrame, folder: Path) -> None:
    """Remove what a task left that was killed and done again: on Databricks such files lie beside the others, unmarked."""
    files = list(folder.glob("*.parquet"))
    if len(files) > 1:
        found = rows.sparkSession.read.schema(rows.schema).parquet(str(folder)).inputFiles()
        committed = {unquote(urlparse(uri).path).rpartition("/")[2] for uri in found}
        for file in files:
            if file.name not in committed:
                file.unlink()


def _job(artifacts: Artifacts, order: Order, snapshot: SnapshotManifest, output: Path) -> TrainingJob:
    recipe = order.recipe
    parent = None
    if order.parent is not None:
        parent = ParentRef(
            path=str(artifacts.root / order.parent["path"]),
            digest=order.parent["weights_sha256"],
            checkpoint_id=order.parent["checkpoint_id"],
        )
    return TrainingJob(
        kind="reward" if recipe["role"] in REWARD_ROLES else "sft",
        checkpoint_id=order.checkpoint_id,
        run_id=recipe["run_id"],
        round=recipe["round"],
        role=recipe["role"],
        base=ModelRef(path=order.base.path, digest=order.base.digest),
        parent=parent,
        snapshot=SnapshotRef(
            path=str(artifacts.snapshot(order.checkpoint_id)), root=snapshot.root, rows=snapshot.rows
        ),
        output=str(output),
        destination=str(artifacts.checkpoint(order.checkpoint_id)),
        settings=order.settings,
        seed=recipe["seed"],
        code_version=order.code_version,
    )


def _credentials(tracking_uri: str) -> dict[str, str]:
    """What a trainer needs in its environment to log to Databricks: there only the driver's process is known to it."""
    if not tracking_uri.startswith("databricks"):
        return {}
    from mlflow.utils.databricks_utils import get_databricks_env_vars

    try:
        return dict(get_databricks_env_vars(tracking_uri))
    except Exception as error:  # noqa: BLE001 - whatever MLflow raises, checkpoints are made without it
        log.warning(
            "trainers can't log to MLflow: it finds no credentials for Databricks (%s)", type(error).__name__
        )
        return {}


class Trainers:
    """Where trainers come from: one process that has done their imports, and forks one for each job.

    It is started when a training set is being made, so that the imports are over when the set is there.

    Args:
        tracking_uri: where trainers log to MLflow; empty for nowhere.
    """

    def __init__(self, tracking_uri: str = "") -> None:
        self._tracking_uri = tracking_uri
        self._process: subprocess.Popen[str] | None = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Have the process started, unless it is; comes back at once."""
        with self._starting:
            if self._process is not None and self._process.poll() is None:
                return
            # It ends with this process and sees to that itself, for a fork of a process that talks to Spark's JVM must
            # run no Python.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "training.preload"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={
                    # A thread that waits for the others spins only briefly, else it keeps them off the cores where
                    # anything else runs; alone it makes no difference.
                    "GOMP_SPINCOUNT": "10000",
                    **os.environ,
                    **_credentials(self._tracking_uri),
                    "MART_PARENT": str(os.getpid()),
                    "MLFLOW_TRACKING_URI": self._tracking_uri,
                },
            )

    def run(self, kind: str, manifest: Path) -> int:
        """Run a job; gives the trainer's exit code, negative for a signal."""
        self.start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"kind": kind, "manifest": str(manifest)}) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return int(answer) if answer else process.wait() or 4

    def close(self) -> None:
        """End the process, and with it a trainer that runs: it goes on from its saved state when it is asked again."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
            self._process = None


def _is_whole(folder: Path) -> bool:
    try:
        prove_checkpoint(folder)
    except IntegrityError:
        return False
    return True


def prove_checkpoint(folder: Path) -> CheckpointManifest:
    """The manifest of a checkpoint whose files are what it says.

    Raises:
        IntegrityError: a file is missing or differs; says which.
    """
    try:
        manifest = CheckpointManifest.model_validate_json((folder / CHECKPOINT_FILE).read_text())
    except FileNotFoundError:
        raise IntegrityError(
            f"{folder} has no {CHECKPOINT_FILE}: the checkpoint is gone or was never finished"
        ) from None
    except (ValidationError, json.JSONDecodeError) as error:
        raise IntegrityError(f"{folder / CHECKPOINT_FILE} is no checkpoint manifest: {error}") from None
    if wrong := manifest.differences(folder):
        raise IntegrityError("; ".join(wrong))
    return manifest


def prove_registered(artifacts: Artifacts, row: Mapping[str, Any]) -> CheckpointManifest:
    """The manifest of a checkpoint whose files are what it says, and what the table says.

    Args:
        artifacts: where it is.
        row: its row in `checkpoints`.

    Raises:
        IntegrityError: a file is missing or differs, or the manifest is another than was registered; says which.
    """
    manifest = prove_checkpoint(artifacts.root / row["path"])
    said = {
        "weights_sha256": manifest.weights_sha256,
        "files_sha256": manifest.files_sha256,
        "training_root": manifest.snapshot_root,
        "checkpoint_id": manifest.checkpoint_id,
    }
    if row.get("files_sha256") is None:  # registered before the column was there
        del said["files_sha256"]
    if wrong := [
        f"its table says {name} {row[name]}, its manifest says {value}"
        for name, value in said.items()
        if row[name] != value
    ]:
        raise IntegrityError("; ".join(wrong))
    return manifest


def checkpoint_row(
    artifacts: Artifacts, order: Order, manifest: CheckpointManifest, version: int, base: str
) -> dict[str, Any]:
    """The row of `checkpoints` for a proved checkpoint."""
    recipe = order.recipe
    kind = "classifier" if manifest.kind == "reward" else str(manifest.settings.get("method", "lora"))
    return {
        "checkpoint_id": order.checkpoint_id,
        "run_id": recipe["run_id"],
        "round": recipe["round"],
        "role": recipe["role"],
        "kind": kind,
        "parent_checkpoint_id": recipe["parent"],
        "base": base,
        "base_digest": recipe["base_digest"],
        "recipe": canonical_json(recipe),
        "training_root": manifest.snapshot_root,
        "training_rows": manifest.snapshot_rows,
        "training_table_version": version,
        "weights_sha256": manifest.weights_sha256,
        "files_sha256": manifest.files_sha256,
        "path": artifacts.relative(artifacts.checkpoint(order.checkpoint_id)),
        "settings": canonical_json(manifest.settings),
        "metrics": canonical_json(manifest.metrics),
        "environment": canonical_json(manifest.environment),
        "code_version": manifest.code_version,
    }
