"""Rows for people and programs; model text is escaped, so that it can't drive a terminal."""

import csv
import json
from typing import IO, Any

from pyspark.sql import DataFrame
from tabulate import tabulate

from pipelines.lakehouse import Lakehouse
from pipelines.lineage import printable

_WIDEST = 80


def show_frame(frame: DataFrame, format: str, out: IO[str]) -> None:
    """Print a frame's rows as they stream in: `table` shortens long cells, `json` (a line a row) and `csv` do not."""
    if format == "json":
        for row in frame.toLocalIterator():
            out.write(json.dumps(row.asDict(recursive=True), default=str) + "\n")
    elif format == "csv":
        writer = csv.writer(out)
        writer.writerow(frame.columns)
        for row in frame.toLocalIterator():
            writer.writerow([_cell(value) for value in row])
    else:
        shown = frame.limit(1001).collect()
        rows = [[_short(_cell(value)) for value in row] for row in shown[:1000]]
        out.write(tabulate(rows, headers=frame.columns, disable_numparse=False) + "\n")
        if len(shown) > 1000:
            out.write("the first 1000 rows; --format csv or json gives all\n")


def _cell(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _short(value: Any) -> Any:
    return value[: _WIDEST - 1] + "…" if isinstance(value, str) and len(value) > _WIDEST else value


def show_status(lakehouse: Lakehouse, run_id: str | None) -> None:
    """Print each run: who drives it, and the newest event of its newest step."""
    chosen = (
        f"WHERE r.run_id = '{run_id}'"
        if run_id and run_id.replace("-", "").replace("_", "").isalnum()
        else ""
    )
    lakehouse.ready("runs", "steps")
    query = f"""
        SELECT r.run_id, coalesce(r.lease_holder, '') AS driven_by, s.round, s.step, s.state, s.ended_at,
               coalesce(s.error, '') AS error
        FROM {lakehouse.name("runs")} r LEFT JOIN (
            SELECT run_id, max_by(struct(round, step, state, ended_at, error), ended_at) AS s
            FROM {lakehouse.name("steps")} GROUP BY run_id
        ) USING (run_id) {chosen} ORDER BY r.run_id
    """
    rows = [[_cell(value) for value in row] for row in lakehouse.spark.sql(query).collect()]
    print(
        tabulate(
            rows, headers=["run", "driven by", "round", "step", "state", "at (UTC)", "error"], maxcolwidths=60
        )
    )
