"""What `mart verify` makes of rows, without Spark."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from pipelines.artifacts import Artifacts
from pipelines.errors import IntegrityError
from pipelines.training_jobs import prove_registered
from pipelines.verify_checkpoints import wrong_rows, wrong_snapshot
from schemas.digests import root_digest
from schemas.manifests import (
    CHECKPOINT_FILE,
    SFT_COLUMNS,
    SNAPSHOT_FILE,
    CheckpointManifest,
    FileEntry,
    SnapshotManifest,
    sft_example_sha256,
    weights_sha256,
)


def _row(position: int) -> dict[str, Any]:
    text = f"row {position}"
    example = sft_example_sha256(text, text, 1.0, "target")
    return {"position": position, "input": text, "output": text, "weight": 1.0, "example_sha256": example}


def test_training_rows_are_proved_without_being_kept() -> None:
    n = 5_000
    root = root_digest(_row(position)["example_sha256"] for position in range(n))

    def rows() -> Iterator[dict[str, Any]]:
        for position in range(n):
            yield _row(position) | ({"output": "changed"} if position == 7 else {})

    tracemalloc.start()
    found = wrong_rows(rows(), {"role": "target", "training_root": root})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [
        "training row 7 does not have the digest of its content",
        f"its {n} training rows do not give the root that its recipe names",
    ]
    assert most < 64 * n, "less than the digests of all of them"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint's folder as a trainer leaves it."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file({"x": np.zeros(2, dtype=np.float32)}, folder / "adapter_model.safetensors")
    (folder / "README.md").write_text("a card")
    manifest = CheckpointManifest(
        checkpoint_id="c", kind="sft", role="target", round=1, run_id="r", base_digest="0" * 64, parent_checkpoint_id=None,
        parent_digest=None, snapshot_root="0" * 64, snapshot_rows=1, weights_sha256=weights_sha256(folder),
        files=tuple(FileEntry.of(path) for path in sorted(folder.iterdir())), settings={}, seed=1, code_version="v",
        environment={}, metrics={}, resumed=0,
    )  # fmt: skip
    (folder / CHECKPOINT_FILE).write_text(manifest.model_dump_json())
    return folder


def _differences(folder: Path) -> list[str]:
    return CheckpointManifest.model_validate_json((folder / CHECKPOINT_FILE).read_text()).differences(folder)


def test_a_checkpoint_with_what_its_manifest_lists_has_no_differences(checkpoint: Path) -> None:
    (checkpoint / "empty").mkdir()
    assert _differences(checkpoint) == []


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.bin", "other.safetensors", "below/config.json", ".hidden"]
)
def test_a_file_that_a_checkpoints_manifest_does_not_list_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_text("{}")
    assert _differences(checkpoint) == [f"{checkpoint} holds {name}, which checkpoint.json does not list"]


@pytest.mark.parametrize("name", ["weights_sha256", "files_sha256"])
def test_a_checkpoint_whose_manifest_is_another_than_was_registered_is_told(
    checkpoint: Path, name: str
) -> None:
    manifest = CheckpointManifest.model_validate_json((checkpoint / CHECKPOINT_FILE).read_text())
    row = {
        "path": checkpoint.name,
        "checkpoint_id": "c",
        "training_root": "0" * 64,
        "weights_sha256": manifest.weights_sha256,
        "files_sha256": manifest.files_sha256,
    }
    artifacts = Artifacts(checkpoint.parent)
    assert (
        prove_registered(artifacts, row)
        == prove_registered(artifacts, row | {"files_sha256": None})
        == manifest
    )
    with pytest.raises(IntegrityError, match=f"its table says {name} another"):
        prove_registered(artifacts, row | {name: "another"})


_RECIPE = {"role": "target", "training_root": root_digest(_row(n)["example_sha256"] for n in range(3))}


def _snapshot(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A snapshot of rows in two files, whose manifest names the recipe's root and the files as they are."""
    whole = [{"role": "target", **row} for row in rows]
    for number in range(2 if rows else 0):
        pq.write_table(pa.Table.from_pylist(whole[number::2]), folder / f"part-{number}.parquet")
    manifest = SnapshotManifest(
        table="training_examples", table_version=1, rows=3, columns=SFT_COLUMNS, root=str(_RECIPE["training_root"]),
        files=tuple(FileEntry.of(path) for path in sorted(folder.glob("*.parquet"))),
    )  # fmt: skip
    (folder / SNAPSHOT_FILE).write_text(manifest.model_dump_json())
    return folder


def test_a_snapshot_of_the_recipes_rows_holds_however_they_are_spread_over_files(tmp_path: Path) -> None:
    assert list(wrong_snapshot(_snapshot(tmp_path, [_row(n) for n in range(3)]), _RECIPE)) == []


def test_a_snapshots_rows_must_give_the_root_whatever_its_manifest_says(tmp_path: Path) -> None:
    rows = [_row(n) for n in range(3)]
    rows[1]["output"] = "another"
    assert list(wrong_snapshot(_snapshot(tmp_path, rows), _RECIPE)) == [
        f"{tmp_path}: training row 1 does not have the digest of its content",
        f"{tmp_path}: its 3 training rows do not give the root that its recipe names",
    ]


def test_a_snapshot_without_files_does_not_hold(tmp_path: Path) -> None:
    assert list(wrong_snapshot(_snapshot(tmp_path, []), _RECIPE)) == [
        f"{tmp_path}: its 0 training rows do not give the root that its recipe names"
    ]


def test_a_snapshot_whose_rows_are_no_training_rows_is_told(tmp_path: Path) -> None:
    folder = _snapshot(tmp_path, [_row(n) | {"weight": None} for n in range(3)])
    assert [item.partition(":")[0] for item in wrong_snapshot(folder, _RECIPE)] == [
        "its snapshot can't be read"
    ]


def test_a_snapshot_whose_manifest_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT_FILE).write_text(json.dumps({}))
    assert [item.partition(":")[0] for item in wrong_snapshot(tmp_path, _RECIPE)] == [
        "its snapshot can't be read"
    ]
