"""A snapshot proves what it holds, or names what differs."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from training_rows import reward_rows, sft_rows, write_snapshot

from schemas.digests import root_digest
from schemas.manifests import SNAPSHOT_FILE, FileEntry, sft_example_sha256
from training.errors import ProofError
from training.snapshot import load_snapshot


def _rewrite(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / SNAPSHOT_FILE).read_text())
    (path / SNAPSHOT_FILE).write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize("rows", [sft_rows(7), reward_rows(8)])
def test_rows_come_proven_and_in_order_of_position(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    manifest = write_snapshot(tmp_path / "s", rows, files=3)
    assert load_snapshot(tmp_path / "s", manifest.root, len(rows)).to_pylist() == rows


def test_another_root_or_number_of_rows_is_refused(tmp_path: Path) -> None:
    manifest = write_snapshot(tmp_path / "s", sft_rows(3))
    with pytest.raises(ProofError, match="the job asks for f{64}"):
        load_snapshot(tmp_path / "s", "f" * 64, 3)
    with pytest.raises(ProofError, match="has 3 rows, the job asks for 4"):
        load_snapshot(tmp_path / "s", manifest.root, 4)


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    manifest = write_snapshot(tmp_path / "s", sft_rows(3))
    file = tmp_path / "s" / "part-1.parquet"
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.write_bytes(data)
    with pytest.raises(ProofError, match=r"part-1\.parquet has SHA-256"):
        load_snapshot(tmp_path / "s", manifest.root, 3)


@pytest.mark.parametrize("column", ["input", "output", "weight", "role"])
def test_a_row_whose_content_differs_from_its_digest_is_named(tmp_path: Path, column: str) -> None:
    rows = sft_rows(5)
    rows[3] |= {column: {"weight": 9.0, "input": rows[0]["input"]}.get(column, "changed")}
    manifest = write_snapshot(tmp_path / "s", rows)
    with pytest.raises(ProofError, match="row at position 3 has digest"):
        load_snapshot(tmp_path / "s", manifest.root, 5)


def test_rows_in_another_order_have_another_root(tmp_path: Path) -> None:
    rows = sft_rows(3)
    manifest = write_snapshot(tmp_path / "s", rows)
    other = root_digest(row["example_sha256"] for row in rows[::-1])
    _rewrite(tmp_path / "s", root=other)
    with pytest.raises(ProofError, match=f"the rows have the root {manifest.root}"):
        load_snapshot(tmp_path / "s", other, 3)


def test_a_position_that_stands_twice_is_refused(tmp_path: Path) -> None:
    rows = sft_rows(3)
    rows[2]["position"] = 1
    manifest = write_snapshot(tmp_path / "s", rows)
    with pytest.raises(ProofError, match="position 1 stands twice"):
        load_snapshot(tmp_path / "s", manifest.root, 3)


def test_a_weight_that_teaches_nothing_is_refused(tmp_path: Path) -> None:
    rows = sft_rows(2)
    content = {name: rows[1][name] for name in ("input", "output", "role")} | {"weight": 0.0}
    rows[1] |= content | {"example_sha256": sft_example_sha256(**content)}
    manifest = write_snapshot(tmp_path / "s", rows)
    with pytest.raises(ProofError, match="position 1 is not a training example: its weight 0.0"):
        load_snapshot(tmp_path / "s", manifest.root, 2)


def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    manifest = write_snapshot(tmp_path / "s", sft_rows(2))
    (tmp_path / "s" / "part-9.parquet").write_bytes(b"")
    with pytest.raises(ProofError, match=r"holds part-9\.parquet"):
        load_snapshot(tmp_path / "s", manifest.root, 2)


def test_an_export_without_its_manifest_did_not_end(tmp_path: Path) -> None:
    manifest = write_snapshot(tmp_path / "s", sft_rows(2))
    (tmp_path / "s" / SNAPSHOT_FILE).unlink()
    with pytest.raises(ProofError, match="the export did not end"):
        load_snapshot(tmp_path / "s", manifest.root, 2)


def test_a_manifest_cannot_point_outside_its_directory(tmp_path: Path) -> None:
    manifest = write_snapshot(tmp_path / "s", sft_rows(2))
    _rewrite(tmp_path / "s", files=[{"name": "../x.parquet", "sha256": "0" * 64, "bytes": 1}])
    with pytest.raises(ProofError, match="not a plain file name"):
        load_snapshot(tmp_path / "s", manifest.root, 2)


def test_a_lost_column_is_refused(tmp_path: Path) -> None:
    manifest = write_snapshot(tmp_path / "s", sft_rows(2), files=1)
    file = tmp_path / "s" / "part-0.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["role"]), file)
    _rewrite(tmp_path / "s", files=[FileEntry.of(file).model_dump()])
    with pytest.raises(ProofError, match="has the columns"):
        load_snapshot(tmp_path / "s", manifest.root, 2)
