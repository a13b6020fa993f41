"""The Spark session: the platform's where there is one, else a local one with Delta."""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from pipelines import local_jvm
from pipelines.errors import SparkDied
from pipelines.models import cache_folder

log = logging.getLogger(__name__)

# Slots wait for answers, so there are more than cores; 4 tries a task, as a cluster has.
LOCAL_MASTER = "local[8,4]"


def spark_session(
    scratch: Path | None = None,
    master: str = LOCAL_MASTER,
    java_options: str = "",
    asks_models: bool = True,
) -> tuple[SparkSession, bool]:
    """A session with Delta, and whether it is ours to stop.

    A session that exists is used as it is. Under `spark-submit` the submitted settings count, Delta's jar among them;
    otherwise a local session starts, with the jars that `local_jvm` has of the installed `delta-spark`, or else resolved
    through Maven coordinates.

    Args:
        scratch: folder for Spark's spill files and pyspark's own; the system's temporary folder when None.
        master: Spark master of a session of our own.
        java_options: more of them for the driver of a local session.
        asks_models: whether the tasks of a local session may ask models or tokenize: its Python workers have what that
            imports before they are forked, which takes ten seconds of a core.
    """
    # What raises an error tells it; pyspark tells it as well, as a page of JSON with Java's stack.
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL)
    active = SparkSession.getActiveSession()
    if active is not None:
        return active, False
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return SparkSession.builder.getOrCreate(), False
    builder = (
        SparkSession.builder.appName("mart")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "64")
        # The log of a table here is small; 50 tasks to read one are Delta's default.
        .config("spark.databricks.delta.snapshotPartitions", "1")
        .config("spark.log.level", "ERROR")
    )
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        # `spark-submit` started the driver's JVM, with a master, and with Delta's jar if `--packages` named it.
        session = builder.getOrCreate()
    else:
        # Whatever imports torch makes this folder, by default among temporary files, for workers, engines and trainers to find.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "torchinductor"))
        local = _local(builder.master(master), scratch, java_options, asks_models)
        with _temporary_files_in(scratch):
            session = local.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session, True


@contextmanager
def _temporary_files_in(folder: Path | None) -> Iterator[None]:
    """Has Python make its temporary files in a folder, if one is given.

    pyspark's folder with the gateway's secret is among them: a driver that is killed while it starts would leave it.
    """
    before = tempfile.tempdir
    if folder is not None:
        tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def is_local(session: SparkSession) -> bool:
    """Whether tasks run in this very process's host and environment."""
    return (session.conf.get("spark.master", "") or "local").startswith("local")


@contextmanager
def open_session(
    scratch: Path | None = None,
    master: str = LOCAL_MASTER,
    java_options: str = "",
    asks_models: bool = True,
) -> Iterator[SparkSession]:
    """`spark_session`, stopped at the end if it is ours.

    Raises:
        SparkDied: the driver's JVM, started here, ended by itself; what was raised because of that is the cause.
    """
    session, ours = spark_session(scratch, master, java_options, asks_models)
    process = getattr(session.sparkContext._gateway, "proc", None) if ours else None
    try:
        yield session
    except Exception as error:
        # A JVM that is ending closes its sockets first.
        patience = 5.0 if isinstance(error, (Py4JError, OSError)) else 0.0
        if process is not None and not _lives(process, patience):
            raise SparkDied(
                f"Spark's driver ended in the middle of its work, with code {process.returncode}; what it said stands "
                f"above. If it ran out of memory, give it more than {_driver_memory()} by MART_DRIVER_MEMORY. "
                "The same command goes on from here"
            ) from error
        raise
    finally:
        if ours and (process is None or _lives(process, 0.0)):
            session.stop()


def _lives(process: "subprocess.Popen[bytes]", patience: float) -> bool:
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        return True
    return False


def _driver_memory() -> str:
    return os.environ.get("MART_DRIVER_MEMORY", "2g")


def _local(builder: Any, scratch: Path | None, java_options: str, asks_models: bool) -> Any:
    """What suits one machine: a driver that lives for minutes and plans far more than it computes."""
    # The second compiler and a parallel collector took 41 % of the driver's processor time (109 s to 64 s over seven tests
    # on two cores). Counters for jstat lie in the shared temporary folder, under the pid: JVMs of two containers can collide.
    java = [
        "-XX:TieredStopAtLevel=1",
        "-XX:ReservedCodeCacheSize=240m",
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",
        java_options,
    ]
    if scratch is not None:
        java.append(f'-Djava.io.tmpdir="{scratch}"')
    found = local_jvm.prepared()
    if found is None:
        from delta import configure_spark_with_delta_pip

        # Hadoop's, Parquet's and log4j's jars, 60 MB, are named by Delta, and Spark has them.
        builder = configure_spark_with_delta_pip(builder).config("spark.jars.excludes", "org.apache.*:*")
    else:
        class_path = {"spark.driver.extraClassPath": os.pathsep.join(found.jars)}
        builder = builder.config(map=class_path | found.settings)
        if found.archive is not None:
            # That another Java or another copy of a jar can't use it is no news for the output of a command.
            java += [f'-XX:SharedArchiveFile="{found.archive}"', "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]
    builder = (
        builder.config("spark.sql.shuffle.partitions", str(max(2, os.cpu_count() or 2)))
        .config("spark.sql.adaptive.coalescePartitions.enabled", "true")
        # A round is some hundred queries over small tables: compiling their plans took a third of the driver's time.
        .config("spark.sql.codegen.wholeStage", "false")
        .config("spark.sql.codegen.factoryMode", "NO_CODEGEN")
        # Spark looks for it before a job's own files are there, so that a cluster needs it installed on its nodes.
        .config("spark.python.daemon.module", "pipelines.worker_daemon")
        .config("spark.executorEnv.MART_WORKERS", "models" if asks_models else "frames")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", _driver_memory())
        .config("spark.driver.extraJavaOptions", " ".join(option for option in java if option))
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
    )
    if scratch is None:
        return builder
    scratch.mkdir(parents=True, exist_ok=True)
    return builder.config("spark.local.dir", str(scratch)).config(
        "spark.sql.warehouse.dir", str(scratch / "wh")
    )
