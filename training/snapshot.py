"""Reading a training set that Spark exported, and proving it before anything long starts."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from schemas.digests import root_digest
from schemas.manifests import (
    REWARD_COLUMNS,
    SFT_COLUMNS,
    SNAPSHOT_FILE,
    SnapshotManifest,
    parse_messages,
    reward_example_sha256,
    sft_example_sha256,
    valid_share,
)
from training.errors import ProofError

log = logging.getLogger(__name__)

_AGAIN = "export the snapshot again and leave its directory untouched"


def load_snapshot(path: Path, expected_root: str, expected_rows: int) -> pa.Table:
    """The proven rows of a snapshot, in order of position.

    Every file is compared with its SHA-256, every row with its digest, and all rows with the root.

    Args:
        path: directory with `snapshot.json` and its Parquet files.
        expected_root: the root that the job names.
        expected_rows: the number of rows that the job names.

    Returns:
        A table with the columns of `SFT_COLUMNS` or `REWARD_COLUMNS`, at least one row, sorted by position.

    Raises:
        ProofError: something differs; the message names the file or the row.
    """
    started = time.monotonic()
    manifest = _manifest(path)
    if manifest.root != expected_root:
        raise ProofError(
            f"{path} is the snapshot {manifest.root}, the job asks for {expected_root}; correct the job's path"
        )
    if manifest.rows != expected_rows:
        raise ProofError(
            f"{path} has {manifest.rows} rows, the job asks for {expected_rows}; correct the job"
        )
    for entry in manifest.files:
        if difference := entry.difference(path):
            raise ProofError(f"snapshot: {difference}; {_AGAIN}")
    listed = {entry.name for entry in manifest.files}
    if extra := sorted(file.name for file in path.glob("*.parquet") if file.name not in listed):
        raise ProofError(f"{path} holds {extra[0]}, which {SNAPSHOT_FILE} does not list; {_AGAIN}")
    table = _read(path, manifest)
    _prove_rows(table, manifest)
    log.info(
        "proved snapshot %s: %d rows in %.1f s",
        manifest.root[:12],
        table.num_rows,
        time.monotonic() - started,
    )
    return table


def _manifest(path: Path) -> SnapshotManifest:
    try:
        return SnapshotManifest.model_validate_json((path / SNAPSHOT_FILE).read_bytes())
    except FileNotFoundError:
        raise ProofError(f"{path / SNAPSHOT_FILE} is missing: the export did not end; {_AGAIN}") from None
    except ValidationError as error:
        raise ProofError(f"{path / SNAPSHOT_FILE} is not a snapshot manifest: {error}; {_AGAIN}") from None


def _read(path: Path, manifest: SnapshotManifest) -> pa.Table:
    if set(manifest.columns) not in (set(SFT_COLUMNS), set(REWARD_COLUMNS)):
        raise ProofError(
            f"{path} has the columns {list(manifest.columns)}, neither {SFT_COLUMNS} nor {REWARD_COLUMNS}"
        )
    tables = []
    for entry in manifest.files:
        try:
            table = pq.read_table(path / entry.name, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise ProofError(f"{path / entry.name} can't be read as Parquet: {error}; {_AGAIN}") from error
        if set(table.column_names) != set(manifest.columns):
            raise ProofError(
                f"{path / entry.name} has the columns {table.column_names}, not {list(manifest.columns)}"
            )
        tables.append(table.select(list(manifest.columns)))
    if not tables:
        raise ProofError(f"{path} has no files; a training set needs at least one row")
    try:
        return pa.concat_tables(tables, promote_options="permissive").sort_by("position")
    except pa.ArrowException as error:
        raise ProofError(f"the files of {path} have columns of different types: {error}; {_AGAIN}") from error


def _prove_rows(table: pa.Table, manifest: SnapshotManifest) -> None:
    if table.num_rows != manifest.rows or table.num_rows == 0:
        raise ProofError(
            f"the files hold {table.num_rows} rows, {SNAPSHOT_FILE} says {manifest.rows}; {_AGAIN}"
        )
    check = _sft_digest if "weight" in table.column_names else _reward_digest
    previous = None
    for row in table.to_pylist():
        position = row["position"]
        if position is None or position == previous:
            raise ProofError(f"position {position} stands twice or is null; {_AGAIN}")
        previous = position
        try:
            found = check(row)
            parse_messages(row["input"])
        except (ValueError, TypeError) as error:
            raise ProofError(f"the row at position {position} is not a training example: {error}") from error
        if found != row["example_sha256"]:
            raise ProofError(
                f"the row at position {position} has digest {found}, its example_sha256 says "
                f"{row['example_sha256']}; {_AGAIN}"
            )
    root = root_digest(table.column("example_sha256").to_pylist())
    if root != manifest.root:
        raise ProofError(f"the rows have the root {root}, {SNAPSHOT_FILE} says {manifest.root}; {_AGAIN}")


def _sft_digest(row: dict[str, Any]) -> str:
    if row["weight"] is None or not (math.isfinite(row["weight"]) and row["weight"] > 0):
        raise ValueError(
            f"its weight {row['weight']} is not above 0; leave such a row out of the training set"
        )
    if not row["output"]:
        raise ValueError("its output is empty, so nothing would be learned from it")
    return sft_example_sha256(row["input"], row["output"], row["weight"], row["role"])


def _reward_digest(row: dict[str, Any]) -> str:
    if not valid_share(row["label"]):
        raise ValueError(f"its label {row['label']} is not in [0, 1]")
    if row["split"] not in {"train", "heldout"}:
        raise ValueError(f"its split {row['split']!r} is neither 'train' nor 'heldout'")
    if row["label"] is None and row["rejected"] is None:
        raise ValueError("it has neither a label nor a rejected answer")
    return reward_example_sha256(row["input"], row["output"], row["label"], row["rejected"], row["split"])
