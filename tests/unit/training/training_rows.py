"""Rows, snapshots and forked processes for the tests of training."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate.state import AcceleratorState, PartialState

from schemas.digests import root_digest
from schemas.manifests import (
    REWARD_COLUMNS,
    SFT_COLUMNS,
    SNAPSHOT_FILE,
    FileEntry,
    SnapshotManifest,
    reward_example_sha256,
    sft_example_sha256,
)
from tests.tiny import WORDS


def ask(text: str) -> str:
    """The `input` of a row with one user turn."""
    return json.dumps([{"role": "user", "content": text}])


def sft_rows(count: int, role: str = "target") -> list[dict[str, Any]]:
    """Examples of different lengths and weights."""
    rows = []
    for position in range(count):
        words = [WORDS[(position * 7 + step) % len(WORDS)] for step in range(3 + position % 5)]
        row = {
            "input": ask(" ".join(words)),
            "output": " ".join(reversed(words)),
            "weight": 1.0 + position % 2,
            "role": role,
        }
        rows.append({"position": position, **row, "example_sha256": sft_example_sha256(**row)})
    return rows


def reward_rows(count: int, *, pairs: bool = False) -> list[dict[str, Any]]:
    """Answers with cake are good, those with salt are bad; the last quarter is held out."""
    rows = []
    for position in range(count):
        good, filler = f"cake {WORDS[position % 7]}", WORDS[position % 11]
        bad = f"salt {WORDS[position % 5]}"
        split = "heldout" if position >= count * 3 // 4 else "train"
        row: dict[str, Any] = {
            "input": ask(f"tell me {filler}"),
            "output": good,
            "label": None,
            "rejected": bad,
            "split": split,
        }
        if not pairs:
            row |= {"output": good if position % 2 else bad, "label": float(position % 2), "rejected": None}
        rows.append({"position": position, **row, "example_sha256": reward_example_sha256(**row)})
    return rows


def write_snapshot(path: Path, rows: Sequence[Mapping[str, Any]], *, files: int = 2) -> SnapshotManifest:
    """Rows as a snapshot of several files, not in order of position."""
    path.mkdir(parents=True)
    columns = SFT_COLUMNS if "weight" in rows[0] else REWARD_COLUMNS
    types = {"position": pa.int64(), "weight": pa.float64(), "label": pa.float64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    entries = []
    for number in range(files):
        file = path / f"part-{number}.parquet"
        pq.write_table(
            pa.Table.from_pylist([dict(row) for row in rows[number::files]][::-1], schema=schema), file
        )
        entries.append(FileEntry.of(file))
    manifest = SnapshotManifest(
        table="mart.training_examples", table_version=3, rows=len(rows), columns=columns,
        root=root_digest(row["example_sha256"] for row in rows), files=tuple(entries),
    )  # fmt: skip
    (path / SNAPSHOT_FILE).write_text(manifest.model_dump_json())
    return manifest


class Child:
    """A forked process: a real one to kill, without the half minute that importing torch anew takes here."""

    def __init__(self, log: Path, function: Callable[[], int | None], environment: Mapping[str, str]) -> None:
        self._log = log
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                os.environ.update(environment)
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
                logging.basicConfig(stream=sys.stderr, force=True)
                logging.getLogger("training").setLevel("INFO")
                PartialState._reset_state()
                AcceleratorState._reset_state()
                status = function() or 0
            except BaseException:  # noqa: BLE001  # a child must report whatever ends it
                traceback.print_exc()
            finally:
                os._exit(status)

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text()
