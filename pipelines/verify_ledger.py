"""`mart verify` of tables that are only ever appended to: no commit since has removed or changed a row of the run."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, Row
from pyspark.sql import functions as F

from pipelines.lakehouse import Lakehouse
from pipelines.verify_checkpoints import NAMED
from schemas.tables import BY_NAME

# What Delta calls commits that leave all rows as they are. Any other but an append is looked into.
_ROWS_STAY = frozenset({
    "CREATE TABLE", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "ADD COLUMNS", "CHANGE COLUMN", "ADD CONSTRAINT",
    "DROP CONSTRAINT", "UPGRADE PROTOCOL", "OPTIMIZE", "VACUUM START", "VACUUM END",
})  # fmt: skip
# Those that take rows away, as far as is known: a platform has further ones of its own, which most likely don't.
_TAKES_AWAY = frozenset({
    "DELETE", "UPDATE", "MERGE", "WRITE", "RESTORE", "TRUNCATE", "REPLACE TABLE", "REPLACE TABLE AS SELECT",
    "CREATE OR REPLACE TABLE", "CREATE OR REPLACE TABLE AS SELECT",
})  # fmt: skip


def rewritten(lakehouse: Lakehouse, scopes: Mapping[str, Column]) -> Iterator[str]:
    """Rows that commits removed or changed, and that are not there as they were by now.

    It is one look at the history of each table, and at rows only where that has such a commit. What was before the
    history begins can't be told.

    Args:
        lakehouse: the tables.
        scopes: table, to which nothing in this project does more than append, to the condition on the rows that count.
    """
    lakehouse.ready(*scopes)
    # Each is a handful of short driver-side jobs that mostly wait for one another.
    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="verify") as pool:
        for found in pool.map(lambda table: list(_rewritten_in(lakehouse, table, scopes[table])), scopes):
            yield from found


def _rewritten_in(lakehouse: Lakehouse, table: str, scope: Column) -> Iterator[str]:
    def rows(version: int | None = None) -> set[tuple[Any, ...]]:
        return {tuple(row) for row in lakehouse.read(table, version).where(scope).collect()}

    history = lakehouse.spark.sql(f"DESCRIBE HISTORY {lakehouse.name(table)}").select(
        "version", "operation", "operationParameters", F.unix_micros("timestamp").alias("at")
    )
    commits = sorted(history.collect(), key=lambda commit: commit["version"])
    # Of the first commit that is left, it can't be told what was there before.
    suspects = [commit for commit in commits[1:] if not _only_adds(commit)]
    if not suspects:
        return
    now = rows()
    names = BY_NAME[table].names
    key = [names.index(name) for name in BY_NAME[table].key]

    def keys(found: set[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
        return {tuple(row[place] for place in key) for row in found}

    there = keys(now)
    # What such a commit wrote itself was no record: whoever undoes it takes nothing away.
    made: set[tuple[Any, ...]] = set()
    for commit in suspects:
        version = commit["version"]
        when = f"{datetime.fromtimestamp(commit['at'] / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
        what = f"{commit['operation']} of {table} at version {version} ({when})"
        try:
            before, after = rows(version - 1), rows(version)
        except (PySparkException, Py4JJavaError):
            if commit["operation"] in _TAKES_AWAY:
                yield f"{what}: the rows before or after it can't be read any more, so that what it took away can't be told"
            continue
        gone = keys(before - after - now - made)
        made |= after - before
        for done, those in (("removed", gone - there), ("changed", gone & there)):
            if those:
                some = "; ".join(", ".join(map(str, item)) for item in sorted(those, key=str)[:NAMED])
                yield f"{what} {done} {len(those)} rows: {some}"


def _only_adds(commit: Row) -> bool:
    if commit["operation"] == "WRITE":
        return (commit["operationParameters"] or {}).get("mode") == "Append"
    return commit["operation"] in _ROWS_STAY
