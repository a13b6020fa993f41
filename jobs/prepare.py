"""Prepare an environment for local sessions, once: fetch Delta's jars, compile our own, and archive the classes that Spark's JVM loads.

`python -m jobs.prepare`, a part of `make install`. After it nothing is fetched any more, and a command starts in half the time.
An environment that can't be written to, or a Java without class data sharing, is told and does without.
"""

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipelines import local_jvm
from pipelines.lakehouse import Lakehouse
from pipelines.session import open_session
from pipelines.views import create_views


def main() -> int:
    """Fetch, then archive. 0 where the jars are there; an archive only makes things faster."""
    local_jvm.forget()
    if _in_own_process(_fetch) != 0:
        return 1
    if _in_own_process(_archive) != 0:
        print(
            "there will be no archive of Java classes: commands take some seconds more to start",
            file=sys.stderr,
        )
    return 0


def _in_own_process(work: Callable[[], None]) -> int:
    """A process has one JVM, and each of the two needs another; the exit code."""
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
    return process.exitcode or 0


def _fetch() -> None:
    with open_session() as spark:
        jars = (spark.sparkContext.getConf().get("spark.jars") or "").split(",")
        try:
            local_jvm.compile_log_store(spark)
            local_jvm.keep_jars([*filter(None, jars), str(local_jvm.log_store_jar())])
        except OSError as error:
            print(f"nothing can be kept in this environment: {error}", file=sys.stderr)


def _archive() -> None:
    """Do a little of all that a run does; the JVM writes down at its end which classes that took."""
    if local_jvm.prepared() is None:
        sys.exit(1)
    written = local_jvm.archive_file().with_suffix(".new")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_session(folder / "scratch", java_options=f'-XX:ArchiveClassesAtExit="{written}"') as spark:
            assert spark.sparkContext._gateway is not None
            jvm = spark.sparkContext._gateway.proc
            _exercise(Lakehouse(spark, "mart", folder / "tables"))
        jvm.stdin.close()  # which ends it
        if (code := jvm.wait(300)) != 0:
            sys.exit(f"Java could not write {written}: it ended with {code}")
    local_jvm.keep_archive(written)


def _exercise(lakehouse: Lakehouse) -> None:
    lakehouse.ensure()
    create_views(lakehouse)
    row = {
        "run_id": "r", "round": 0, "step": "s", "attempt": 1, "state": "done", "started_at": datetime.now(UTC),
        "reads": "{}", "writes": "{}", "counts": "{}", "busy_seconds": 0.0,
    }  # fmt: skip
    lakehouse.append_rows("steps", [row], once="a")
    lakehouse.replace("steps", lakehouse.frame("steps", [row]), {"run_id": "r"})
    steps = lakehouse.read("steps", lakehouse.version("steps"))
    spread = steps.repartition(2, "step").mapInPandas(lambda batches: batches, steps.schema)
    spread.join(steps, "run_id").groupBy("run_id").count().toPandas()
    lakehouse.spark.sql(f"SELECT * FROM {lakehouse.name('round_overview')}").collect()


if __name__ == "__main__":
    sys.exit(main())
