"""Rows for people and programs; model text is escaped where a terminal would read it, so that it can't drive it."""

import csv
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import types as T
from tabulate import tabulate

from pipelines.errors import DataError
from pipelines.history import no_such_run
from pipelines.lakehouse import Lakehouse
from pipelines.shown import escaped, printable

_WIDEST = 80
_NUMBERS = (T.IntegralType, T.FloatType, T.DoubleType)
_CONDITION = re.compile(r"\[[A-Z][A-Z0-9_.]+\] [^\n]+")


def show_query(spark: SparkSession, query: str, format: str, out: IO[str]) -> None:
    """Print what a query gives, as `show_frame` has it.

    Raises:
        DataError: Spark does not take the query, or it failed while it ran; in Spark's words, without the page of Java below.
            A date is beyond the years that Python has. Or as `show_frame`.
    """
    try:
        show_frame(spark.sql(query), format, out)
    except AnalysisException as error:
        raise DataError(f"Spark does not take the query: {error.getMessage().strip()}") from None
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"the query failed while it ran: {_said(error)}") from None
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"a value of the result can't be shown ({error}); CAST dates and times beyond the years 1 to 9999 AS STRING"
        ) from None


def _said(error: Exception) -> str:
    """The condition and its remedy as Spark tells them, or else the first line of an error."""
    words = f"{error.getMessage() if isinstance(error, PySparkException) else ''}\n{error}"
    found = _CONDITION.search(words)
    return found[0].strip() if found else words.strip().partition("\n")[0]


def show_frame(frame: DataFrame, format: str, out: IO[str]) -> None:
    """Print a frame's rows as they stream in: `table` shortens long cells, `json` (a line a row) and `csv` do not.

    `csv` has texts as they are, and on a terminal as Python writes them in quotes, backslashes doubled. In `json` numbers
    that are not finite are null.

    Raises:
        DataError: `json` is to have two columns, or two fields of a struct, of one name.
    """
    with _in_utc():
        _show(frame, format, out)


@contextmanager
def _in_utc() -> Iterator[None]:
    """Has pyspark give timestamps in UTC, as all tables have them: it makes them in the time zone of its own process."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        yield
    finally:
        del os.environ["TZ"]
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def _show(frame: DataFrame, format: str, out: IO[str]) -> None:
    if format == "json":
        _require_names_of_their_own(frame.schema, "columns")
        for row in frame.toLocalIterator():
            out.write(json.dumps(_json(row), default=str) + "\n")
    elif format == "csv":
        writer = csv.writer(out)
        shown = _on_a_terminal if out.isatty() else _as_it_is
        writer.writerow(map(shown, frame.columns))
        for row in frame.toLocalIterator():
            writer.writerow(map(shown, row))
    else:
        found = frame.limit(1001).collect()
        out.write(_table(frame.schema, found[:1000]) + "\n")
        if len(found) > 1000:
            out.write("the first 1000 rows; --format csv or json gives all\n")


def _table(schema: T.StructType, rows: Sequence[Row]) -> str:
    """Numbers are what the schema says is one: a text such as 007 or 1e5 stays what it is."""
    kinds = [field.dataType for field in schema.fields]
    texts = [at for at, kind in enumerate(kinds) if not isinstance(kind, _NUMBERS)]
    return tabulate(
        [[_short(_cell(value)) for value in row] for row in rows],
        headers=[printable(name) for name in schema.names],
        disable_numparse=texts if rows else True,
        colalign=["right" if isinstance(kind, T.DecimalType) else "global" for kind in kinds],
    )


def _require_names_of_their_own(kind: T.DataType, what: str) -> None:
    if isinstance(kind, T.StructType):
        name, times = Counter(kind.names).most_common(1)[0] if kind.names else ("", 0)
        if times > 1:
            raise DataError(
                f"{times} {what} are named {name!r}, of which JSON would keep one: give the {what} different names"
                + (" with AS" if what == "columns" else "")
            )
        for field in kind.fields:
            _require_names_of_their_own(field.dataType, f"fields of {field.name}")
    elif isinstance(kind, T.ArrayType):
        _require_names_of_their_own(kind.elementType, what)
    elif isinstance(kind, T.MapType):
        _require_names_of_their_own(kind.keyType, what)
        _require_names_of_their_own(kind.valueType, what)


def _json(value: Any) -> Any:
    """A value as JSON may have it; what is left is written as text."""
    if isinstance(value, Row):
        return dict(zip(value.__fields__, map(_json, value), strict=True))
    if isinstance(value, dict):
        return {_json_key(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_key(key: Any) -> str:
    """A key is text: that of its JSON, or its own where it has none, as a date."""
    return (
        json.dumps(_json(key), default=str)
        if isinstance(key, dict | list | tuple | int | float)
        else str(key)
    )


def _as_it_is(value: Any) -> Any:
    return value


def _on_a_terminal(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float) else escaped(str(value))


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float) else printable(str(value))


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
    with _in_utc():
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
