"""A Spark session of our own: what a user is told when its JVM dies, and what its Python workers are spared."""

import gc
import subprocess
import sys
import zipimport
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from pipelines import local_jvm

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


def test_a_worker_need_not_go_through_what_it_was_forked_with_for_every_task(spark: SparkSession) -> None:
    def look(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        zips = [item for item in sys.path_importer_cache.values() if isinstance(item, zipimport.zipimporter)]
        for _ in batches:
            yield pd.DataFrame({"frozen": [gc.get_freeze_count()], "zips": [len(zips)]})

    for _ in range(2):
        (row,) = spark.range(1, numPartitions=1).mapInPandas(look, "frozen long, zips long").collect()
    assert row["frozen"] > 100_000, "which the collector would visit after each task"
    assert row["zips"] < 10, "which would read the directory of pyspark.zip before each"
