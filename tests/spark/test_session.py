"""A Spark session of our own: what a user is told when its JVM dies, how tables are committed, what workers are spared."""

import gc
import json
import logging
import subprocess
import sys
import threading
import zipimport
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from pipelines import local_jvm
from pipelines.lakehouse import Lakehouse
from schemas.tables import GATE_OVERRIDES

_DYING = """
import sys
from pathlib import Path
from pipelines.errors import SparkDied
from pipelines.session import open_session
try:
    with open_session(Path(sys.argv[1])) as spark:
        spark.sparkContext._gateway.proc.kill()
        spark.range(1).count()
except SparkDied as error:
    print(error)
"""

_STARTING = """
import json, sys, tempfile
from pathlib import Path
import pandas as pd
from pipelines.session import open_session
made, mkdtemp, before = [], tempfile.mkdtemp, tempfile.gettempdir()
tempfile.mkdtemp = lambda *words, **more: made.append(mkdtemp(*words, **more)) or made[-1]
def look(batches):
    for _ in batches:
        yield pd.DataFrame({"module": [*sys.modules]})
with open_session(Path(sys.argv[1]), asks_models=False) as spark:
    folders, after = {str(Path(folder).parent) for folder in made}, tempfile.gettempdir()
    rows = spark.range(1, numPartitions=1).mapInPandas(look, "module string").collect()
modules = {row["module"] for row in rows}
print(json.dumps({"folders": sorted(folders), "restored": after == before, "modules": sorted(modules)}))
"""


@dataclass(frozen=True)
class Started:
    """A session that asks no models, of a process of its own.

    Attributes:
        scratch: its folder.
        seen: parent `folders` of what was made among temporary files, whether those were `restored` to their place, and the
            `modules` that a worker had.
    """

    scratch: Path
    seen: dict[str, Any]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Started:
    scratch = tmp_path_factory.mktemp("started")
    ended = subprocess.run(
        [sys.executable, "-c", _STARTING, str(scratch)], capture_output=True, text=True, check=True
    )
    return Started(scratch, json.loads(ended.stdout.splitlines()[-1]))


def test_a_driver_that_is_killed_while_it_starts_leaves_nothing_beside_its_scratch_folder(
    started: Started,
) -> None:
    assert started.seen["folders"] == [str(started.scratch)]
    assert started.seen["restored"]


def test_workers_of_a_session_that_asks_no_models_import_nothing_for_them(started: Started) -> None:
    assert "pandas" in started.seen["modules"]
    assert not {"torch", "transformers"} & set(started.seen["modules"])


def test_a_jvm_that_dies_is_told_with_its_exit_code_and_the_remedy(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _DYING, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "with code -9" in ended.stdout and "MART_DRIVER_MEMORY" in ended.stdout


def test_the_jvm_has_mapped_the_archive_of_classes(spark: SparkSession) -> None:
    found = local_jvm.prepared()
    if found is None or found.archive is None:
        pytest.skip("nothing was prepared for this environment: `python -m jobs.prepare`")
    process = spark.sparkContext._gateway.proc
    assert str(found.archive) in Path(f"/proc/{process.pid}/maps").read_text(), (
        "it doesn't fit this Java and these jars"
    )


def test_of_drivers_that_commit_a_version_at_the_same_time_one_does(
    spark: SparkSession, tmp_path: Path
) -> None:
    _need_log_store()
    jvm, configuration = spark._jvm, spark.sparkContext._jsc.hadoopConfiguration()
    start = threading.Barrier(4)

    def commit(driver: int, version: int) -> str | None:
        store, line = jvm.mart.LinkLogStore(configuration), f"driver {driver}"
        lines = jvm.java.util.ArrayList()
        lines.add(line)
        target = jvm.org.apache.hadoop.fs.Path(f"file:{tmp_path}/{version}.json")
        start.wait()
        try:
            store.write(target, lines.iterator(), False, configuration)
        except Py4JJavaError as error:
            assert "FileAlreadyExistsException" in str(error.java_exception)
            return None
        return line

    with ThreadPoolExecutor(4) as drivers:
        for version in range(100):
            told = [line for line in drivers.map(commit, range(4), [version] * 4) if line]
            assert told == [(tmp_path / f"{version}.json").read_text().strip()]
    assert len(list(tmp_path.iterdir())) == 100


def test_the_tables_of_a_local_session_are_committed_so(lakehouse: Lakehouse) -> None:
    _need_log_store()
    lakehouse.ensure([GATE_OVERRIDES])
    assert lakehouse.folder is not None
    log = lakehouse.folder / "gate_overrides" / "_delta_log"
    assert (log / f"{0:020}.json").exists()
    assert not (log / f".{0:020}.json.crc").exists(), "which Delta's own way leaves"


def _need_log_store() -> None:
    found = local_jvm.prepared()
    if found is None or not found.settings:
        pytest.skip("nothing was prepared for this environment: `python -m jobs.prepare`")


def test_pyspark_does_not_log_what_is_raised(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[object] = []
    logger = logging.getLogger("SQLQueryContextLogger")
    monkeypatch.setattr(logger, "handle", logged.append)
    with pytest.raises(AnalysisException):
        spark.sql("SELECT nothing FROM range(1)")
    assert logged == []


def test_a_worker_need_not_go_through_what_it_was_forked_with_for_every_task(spark: SparkSession) -> None:
    def look(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        zips = [item for item in sys.path_importer_cache.values() if isinstance(item, zipimport.zipimporter)]
        for _ in batches:
            yield pd.DataFrame({"frozen": [gc.get_freeze_count()], "zips": [len(zips)]})

    for _ in range(2):
        (row,) = spark.range(1, numPartitions=1).mapInPandas(look, "frozen long, zips long").collect()
    assert row["frozen"] > 100_000, "which the collector would visit after each task"
    assert row["zips"] < 10, "which would read the directory of pyspark.zip before each"
