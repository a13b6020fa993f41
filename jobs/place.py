"""Where a command works: a local folder, or a schema and an artifact root of a platform."""

import argparse
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.scratch import scratch_folder
from pipelines.artifacts import Artifacts
from pipelines.errors import ConfigError
from pipelines.lakehouse import Lakehouse
from pipelines.session import open_session
from pipelines.views import create_views
from schemas.tables import TABLES


@dataclass(frozen=True, slots=True)
class Place:
    """The tables, the artifact root, and the local folder that holds both where there is one."""

    lakehouse: Lakehouse
    artifacts: Artifacts
    folder: Path | None

    @property
    def tracking_uri(self) -> str:
        """Where trainers log to MLflow: what `MLFLOW_TRACKING_URI` says (empty for nowhere), the platform's own server,
        or a SQLite file beside the tables."""
        if (wish := os.environ.get("MLFLOW_TRACKING_URI")) is not None:
            return wish
        if "DATABRICKS_RUNTIME_VERSION" in os.environ:
            return "databricks"
        return f"sqlite:///{self.folder / 'mlflow.db'}" if self.folder else ""


@contextmanager
def open_place(
    options: argparse.Namespace,
    *,
    create: bool = False,
    everything: bool = False,
    views: Collection[str] = (),
    asks_models: bool = True,
) -> Iterator[Place]:
    """Open the tables that the options name; ends the Spark session if it was made here.

    Args:
        options: with `lakehouse`, `schema` and `artifacts`.
        create: whether a folder that is not there is made, and every table.
        everything: whether any table and view may be asked for; otherwise tables are made ready when they are touched.
        views: names of those that are asked for. A platform keeps them from the first `run` or `begin` on; the local
            catalog forgets them with the process, and making them takes seconds.
        asks_models: whether tasks may ask models or tokenize; see `open_session`.

    Raises:
        ConfigError: the options contradict each other, or there is no lakehouse.
    """
    if options.schema and options.lakehouse:
        raise ConfigError(
            "--schema and --lakehouse exclude each other: one names a platform's tables, one a folder"
        )
    if options.schema and not options.artifacts:
        raise ConfigError(
            "--schema needs --artifacts, the root where weights and snapshots lie, such as /Volumes/…"
        )
    folder = None if options.schema else (options.lakehouse or Path("lakehouse")).resolve()
    if folder is not None and not create and not (folder / "tables").exists():
        raise ConfigError(
            f"there is no lakehouse at {folder}: name one with --lakehouse, or make one with `mart run`"
        )
    with scratch_folder() as scratch, open_session(scratch, asks_models=asks_models) as spark:
        if folder is not None:
            lakehouse = Lakehouse(spark, "mart", folder / "tables")
            artifacts = Artifacts(options.artifacts or folder / "artifacts")
        else:
            lakehouse, artifacts = Lakehouse(spark, options.schema), Artifacts(options.artifacts)
        lakehouse.ensure(TABLES if create or everything else ())
        if views or everything or (create and folder is None):
            create_views(lakehouse, () if everything else views)
        spark.sql(f"USE {lakehouse.namespace}")
        yield Place(lakehouse, artifacts, folder)
