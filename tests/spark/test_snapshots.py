"""A training set as files: what Spark wrote this time, and nothing that an earlier or a killed attempt left."""

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrameWriter, SparkSession

from pipelines.artifacts import Artifacts
from pipelines.lakehouse import Lakehouse
from pipelines.models import LocalModel
from pipelines.training_jobs import Order, export_snapshot, training_root
from schemas.manifests import SftSettings, sft_example_sha256
from training.snapshot import load_snapshot

ROWS = 3


@pytest.fixture
def order(lakehouse: Lakehouse) -> Order:
    """A checkpoint whose training set has three rows."""
    rows = []
    for position in range(ROWS):
        asked, answer = f'[{{"role": "user", "content": "{position}?"}}]', f"answer {position}"
        rows.append({
            "run_id": "r", "round": 1, "checkpoint_id": "c1", "position": position, "role": "target", "split": "train",
            "input": asked, "output": answer, "weight": 1.0, "source": "own_answer", "source_table": "responses",
            "source_ids": [str(position)], "example_sha256": sft_example_sha256(asked, answer, 1.0, "target"),
        })  # fmt: skip
    lakehouse.append_rows("training_examples", rows)
    root, number = training_root(lakehouse.read("training_examples"))
    recipe = {"role": "target", "training_rows": number, "training_root": root}
    return Order("c1", recipe, LocalModel("b", "b", "d"), None, SftSettings(), "v")


@pytest.fixture
def by_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overwriting as Databricks does it: files that were there stay."""
    mode = DataFrameWriter.mode
    monkeypatch.setattr(DataFrameWriter, "mode", lambda self, _: mode(self, "append"))


def _exported(lakehouse: Lakehouse, folder: Path, order: Order) -> int:
    artifacts = Artifacts(folder / "a volume")
    manifest = export_snapshot(lakehouse, artifacts, order, lakehouse.version("training_examples"))
    assert len(manifest.files) == 1
    table = load_snapshot(artifacts.snapshot("c1"), order.recipe["training_root"], ROWS)
    return table.num_rows


@pytest.mark.usefixtures("by_marks")
def test_a_set_that_is_exported_again_proves(lakehouse: Lakehouse, tmp_path: Path, order: Order) -> None:
    for _ in range(2):
        assert _exported(lakehouse, tmp_path, order) == ROWS


def test_what_a_killed_task_left_is_no_part_of_the_set(
    spark: SparkSession, lakehouse: Lakehouse, tmp_path: Path, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = DataFrameWriter.parquet

    def killed_once(self: DataFrameWriter, path: str, *more: Any, **named: Any) -> None:
        write(self, path, *more, **named)
        (Path(path) / "part-00000-killed.parquet").write_bytes(b"PAR1")

    frame = type(spark.range(1))
    files = frame.inputFiles
    monkeypatch.setattr(DataFrameWriter, "parquet", killed_once)
    # Databricks' reader goes by the marks of what was committed.
    monkeypatch.setattr(
        frame, "inputFiles", lambda self: [uri for uri in files(self) if "-killed." not in uri]
    )
    assert _exported(lakehouse, tmp_path, order) == ROWS
