"""Rows for people and programs; model text is escaped, so that it can't drive a terminal."""

import csv
import json
import re
from typing import IO, Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from tabulate import tabulate

from pipelines.errors import DataError
from pipelines.history import no_such_run
from pipelines.lakehouse import Lakehouse
from pipelines.lineage import printable

_WIDEST = 80
_CONDITION = re.compile(r"\[[A-Z][A-Z0-9_.]+\] [^\n]+")


def show_query(spark: SparkSession, query: str, format: str, out: IO[str]) -> None:
    """Print what a query gives, as `show_frame` has it.

    Raises:
        DataError: Spark does not take the query, or it failed while it ran; in Spark's words, without the page of Java below.
    """
    try:
        show_frame(spark.sql(query), format, out)
    except AnalysisException as error:
        raise DataError(f"Spark does not take the query: {error.getMessage().strip()}") from None
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"the query failed while it ran: {_said(error)}") from None


def _said(error: Exception) -> str:
    """The condition and its remedy as Spark tells them, or else the first line of an error."""
    words = f"{error.getMessage() if isinstance(error, PySparkException) else ''}\n{error}"
    found = _CONDITION.search(words)
    return found[0].strip() if found else words.strip().partition("\n")[0]


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
    """Print each run, or the one named: who drives it, and the newest event of its newest step.

    Raises:
        ConfigError: there is no such run.
    """
    lakehouse.ready("runs", "steps")
    query = f"""
        SELECT r.run_id, coalesce(r.lease_holder, '') AS driven_by, s.round, s.step, s.state, s.ended_at,
               coalesce(s.error, '') AS error
        FROM {lakehouse.name("runs")} r LEFT JOIN (
            SELECT run_id, max_by(struct(round, step, state, ended_at, error), ended_at) AS s
            FROM {lakehouse.name("steps")} GROUP BY run_id
        ) USING (run_id) ORDER BY r.run_id
    """
    found = lakehouse.spark.sql(query).collect()
    known = [row["run_id"] for row in found]
    if run_id is not None and run_id not in known:
        raise no_such_run(run_id, known)
    rows = [[_cell(value) for value in row] for row in found if run_id in (None, row["run_id"])]
    print(
        tabulate(
            rows, headers=["run", "driven by", "round", "step", "state", "at (UTC)", "error"], maxcolwidths=60
        )
    )
