"""The lakehouse: Delta tables created, checked and migrated from `schemas/`, read at versions, written atomically."""

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructField, StructType, _parse_datatype_string

from pipelines.errors import ConfigError, SchemaError
from schemas.model import Column, Table
from schemas.tables import BY_NAME, TABLES

log = logging.getLogger(__name__)

# An audit reads versions that are years old; Delta's defaults (7 and 30 days) would drop them.
_RETENTION = {
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    "delta.logRetentionDuration": "interval 3650 days",
}
_NAME = re.compile(r"[A-Za-z0-9_\-]+")
# What Delta calls a commit that it refused for another one: the classes of its exceptions, or their conditions.
_CONFLICT = re.compile(
    r"Concurrent\w+Exception|(Metadata|Protocol)ChangedException|DELTA_(CONCURRENT|METADATA_CHANGED|PROTOCOL_CHANGED)"
)
_TRIES = 6
# What Delta calls commits that leave all rows as they are.
_ROWS_STAY = (
    "CREATE TABLE", "SET TBLPROPERTIES", "ADD COLUMNS", "ADD CONSTRAINT", "VACUUM START", "VACUUM END",
)  # fmt: skip
# Between the log's folder and the first commit in it lies the time of a few file operations.
_BEGUN_SECONDS = 5.0


def is_conflict(error: Exception) -> bool:
    """Whether Delta refused a commit because another one was made at the same time; nothing of it was written."""
    # The name comes first; further down an error may quote anything.
    return _CONFLICT.search(f"{type(error).__name__} {error}"[:300]) is not None


def retry_conflicts(
    what: str, work: Callable[[], object], is_conflict: Callable[[Exception], bool] = is_conflict
) -> None:
    """Do what ends in a commit, and again where Delta refused that for another driver's.

    Steps that a scheduler runs side by side, two runs and an import commit to the same tables; Delta takes one of two
    commits that might have read each other's rows, and leaves it to the other to look again.

    Args:
        what: the commit, for the log.
        work: reads what it builds on anew at each call.
        is_conflict: whether an error is such a refusal.

    Raises:
        Exception: any other error at once, and a refusal at the sixth try.
    """
    for attempt in range(1, _TRIES):
        try:
            work()
            return
        except Exception as error:
            if not is_conflict(error):
                raise
            log.info("%s: another driver committed at the same time; try %d follows", what, attempt + 1)
        time.sleep(random.uniform(0.1, 0.2 * 2**attempt))
    work()


def _remove_abandoned(log_folder: Path) -> None:
    """Remove the log of a table whose maker died before the first commit: Delta makes no table over it."""
    with suppress(OSError):  # of a maker who lives: it is gone, or is not empty
        left = sorted([log_folder, *log_folder.rglob("*")], reverse=True)
        old = time.time() - max(path.stat().st_mtime for path in left) > _BEGUN_SECONDS
        if old and all(path.is_dir() or path.suffix in (".tmp", ".crc") for path in left):
            for path in left:
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()


def quote(text: str) -> str:
    """A string literal of Spark SQL that holds exactly this text, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def local_frame(
    spark: SparkSession, rows: Sequence[Mapping[str, Any]], schema: StructType | str
) -> DataFrame:
    """Rows from the driver as a frame, by way of Arrow.

    `createDataFrame` on Python rows starts a Python worker for each of its slices, which makes the commit of a single
    row take seconds; an Arrow table goes straight into the plan.

    Args:
        spark: the session.
        rows: column to value; a column that is left out is null.
        schema: Spark schema, or its DDL.
    """
    struct = _parse_datatype_string(schema) if isinstance(schema, str) else schema
    if not isinstance(struct, StructType):
        raise TypeError(f"{schema!r} is no schema of a frame")
    arrow = to_arrow_schema(struct)
    return spark.createDataFrame(pa.Table.from_pylist([dict(row) for row in rows], arrow), struct)


class Lakehouse:
    """The tables of one schema, by name.

    Args:
        spark: a session with Delta.
        schema: `catalog.schema` or `schema`.
        folder: where the tables lie when they are plain folders; None leaves the place to the catalog, as Unity
            Catalog does for managed tables.

    Raises:
        ConfigError: a name holds something other than letters, digits, `_` and `-`.
    """

    def __init__(self, spark: SparkSession, schema: str = "mart", folder: Path | None = None) -> None:
        for part in schema.split("."):
            if not _NAME.fullmatch(part):
                raise ConfigError(
                    f"{schema!r} is no schema name: write catalog.schema with letters, digits, _ and -"
                )
        self.spark = spark
        self.schema = schema
        self.folder = folder
        self._schema_made = False
        self._ready: set[str] = set()
        self._making_ready = threading.Lock()

    def name(self, table: str) -> str:
        """The full, quoted name of a table or view."""
        return f"{self.namespace}.`{table}`"

    @property
    def namespace(self) -> str:
        """The schema's own name, quoted: a name may hold `-`."""
        return ".".join(f"`{part}`" for part in self.schema.split("."))

    def ensure(self, tables: Iterable[Table] = TABLES) -> None:
        """Create what is missing, migrate what is older, refuse what differs from `schemas/`.

        Raises:
            SchemaError: a table lacks or alters a column, constraint or property of ours, or is newer than this code.
        """
        if not self._schema_made:
            self._make_schema()
            self._schema_made = True
        # Each table is a handful of short driver-side jobs that mostly wait for one another.
        wanted = list(tables)
        with ThreadPoolExecutor(max_workers=4, thread_name_prefix="ensure") as pool:
            for made in [pool.submit(self._ensure_table, table) for table in wanted]:
                made.result()
        self._ready |= {table.name for table in wanted}

    def _make_schema(self) -> None:
        # The local catalog forgets. Unity Catalog wants the privilege to create schemas even where IF NOT EXISTS creates none.
        if self.folder is None and self.spark.catalog.databaseExists(self.namespace):
            return
        where = f" LOCATION {quote(str(self.folder))}" if self.folder else ""
        self.spark.sql(f"CREATE SCHEMA IF NOT EXISTS {self.namespace}{where}")

    def ready(self, *tables: str) -> None:
        """`ensure` tables by name that this object was not yet asked for; several at a time take less than one by one.

        What reads or writes a table asks for it, so a command pays for the tables that it touches.

        Raises:
            SchemaError: as `ensure`.
        """
        if self._ready.issuperset(tables):
            return
        with self._making_ready:
            self.ensure([BY_NAME[name] for name in dict.fromkeys(tables) if name not in self._ready])

    def _location(self, table: str) -> str:
        return f" LOCATION {quote(str(self.folder / table))}" if self.folder else ""

    def _commits(self, table: str) -> Iterator[int]:
        """The versions of a table that is a plain folder; Delta's protocol: a commit is a file `<version, 20 digits>.json`."""
        if self.folder is not None:
            files = (self.folder / table / "_delta_log").glob("[0-9]*.json")
            yield from (int(path.stem) for path in files if path.stem.isdigit())

    def _ensure_table(self, table: Table) -> None:
        def is_being_made(error: Exception) -> bool:
            begun = self.folder is not None and (self.folder / table.name / "_delta_log").exists()
            return is_conflict(error) or (begun and "NON_EMPTY_LOCATION" in str(error)[:300])

        retry_conflicts(f"table {table.name}", partial(self._create_or_check, table), is_being_made)

    def _create_or_check(self, table: Table) -> None:
        known = self.spark.catalog.tableExists(self.name(table.name))
        on_disk = any(True for _ in self._commits(table.name))
        if on_disk and not known:
            # The local catalog lives in memory: what an earlier process made is registered by its location.
            self.spark.sql(f"CREATE TABLE {self.name(table.name)} USING DELTA{self._location(table.name)}")
        elif not known:
            if self.folder is not None:
                _remove_abandoned(self.folder / table.name / "_delta_log")
            self._create(table)
            return
        self._check(table)

    def _create(self, table: Table) -> None:
        columns = ", ".join(column.ddl for column in table.columns)
        parts = ", ".join(f"`{name}`" for name in table.partitioned_by)
        properties = {
            **_RETENTION,
            "mart.table_version": str(table.version),
            **{f"delta.constraints.{name}": sql for name, sql in table.checks.items()},
        }
        rendered = ", ".join(f"{quote(key)} = {quote(value)}" for key, value in properties.items())
        self.spark.sql(
            f"CREATE TABLE IF NOT EXISTS {self.name(table.name)} ({columns}) USING DELTA"
            + (f" PARTITIONED BY ({parts})" if parts else "")
            + self._location(table.name)
            + f" COMMENT {quote(table.grain)} TBLPROPERTIES ({rendered})"
        )

    def _check(self, table: Table) -> None:
        name = self.name(table.name)
        have = {item.name: item for item in self.spark.table(name).schema}
        properties = self.properties(table.name)
        version = _version_in(properties)
        if version > table.version:
            raise SchemaError(
                f"table {table.name} has schema version {version}, this code knows {table.version}: "
                "install the newer package that wrote it"
            )
        if version < table.version:
            self._migrate(table, version, have)
            have = {item.name: item for item in self.spark.table(name).schema}
        parts = self._partitioned_by(table.name)
        wrong = [*_wrong_columns(table, have), *_wrong_rules(table, properties)]
        if parts != table.partitioned_by:
            wrong.append(
                (
                    f"it is partitioned by {', '.join(parts) or 'nothing'}, not {', '.join(table.partitioned_by) or 'nothing'}",
                    "write its rows into a table that is",
                )
            )
        if wrong:
            remedies = "; ".join(dict.fromkeys(remedy for _, remedy in wrong))
            raise SchemaError(
                f"table {table.name} differs from its schema: {'; '.join(what for what, _ in wrong)}. "
                f"Undo that ({remedies.format(table=f'ALTER TABLE {name}')}), or start a new schema"
            )

    def properties(self, table: str) -> dict[str, str]:
        """The properties that the catalog has of a table or view."""
        rows = self.spark.sql(f"SHOW TBLPROPERTIES {self.name(table)}").collect()
        return {row["key"]: row["value"] for row in rows}

    def _partitioned_by(self, table: str) -> tuple[str, ...]:
        """The columns that a table is partitioned by: a tenth of the time of `catalog.listColumns`."""
        described = self.spark.sql(f"DESCRIBE TABLE {self.name(table)}").collect()
        return partition_columns([row["col_name"] for row in described])

    def stored_version(self, table: str) -> int:
        """The schema version that a table says it has."""
        return _version_in(self.properties(table))

    def _migrate(self, table: Table, version: int, have: Mapping[str, Any]) -> None:
        names = [
            name for later in range(version + 1, table.version + 1) for name in table.added.get(later, ())
        ]
        missing = [_nullable(table.column(name)) for name in names if name not in have]
        if missing:
            self.spark.sql(
                f"ALTER TABLE {self.name(table.name)} ADD COLUMNS ({', '.join(c.ddl for c in missing)})"
            )
        self.spark.sql(
            f"ALTER TABLE {self.name(table.name)} SET TBLPROPERTIES ('mart.table_version' = '{table.version}')"
        )
        log.info("table %s migrated from schema version %d to %d", table.name, version, table.version)

    def version(self, table: str) -> int:
        """The newest version of a table."""
        self.ready(table)
        if self.folder is not None:  # where looking takes no query
            return max(self._commits(table), default=0)
        row = self.spark.sql(f"DESCRIBE HISTORY {self.name(table)} LIMIT 1").select("version").head()
        return int(row["version"]) if row else 0

    def changes(self, table: str) -> tuple[int, int]:
        """The newest version of a table, and the newest whose commit may have changed or removed rows, as Delta's history has it.

        All commits after that only added rows, or none. Where the history no longer begins with the table, it is at least
        the version before what is left of it.
        """
        self.ready(table)
        history = self.spark.sql(f"DESCRIBE HISTORY {self.name(table)}").select(
            "version", "operation", "operationParameters", "operationMetrics"
        )
        commits = history.collect()
        versions = [row["version"] for row in commits]
        changed = [row["version"] for row in commits if _may_change_rows(row)]
        return max(versions), max([min(versions) - 1, *changed])

    def read(self, table: str, version: int | None = None) -> DataFrame:
        """A table, at a version or as it is now, with the columns that `schemas/` promises.

        A column that the table did not have yet at that version is null.
        """
        self.ready(table)
        if version is None:
            names = ", ".join(f"`{name}`" for name in BY_NAME[table].names)
            return self.spark.sql(f"SELECT {names} FROM {self.name(table)}")
        then = self.spark.sql(f"SELECT * FROM {self.name(table)} VERSION AS OF {int(version)}")
        columns = [
            F.col(f"`{column.name}`")
            if column.name in then.columns
            else F.lit(None).cast(column.type).alias(column.name)
            for column in BY_NAME[table].columns
        ]
        return then.select(columns)

    def struct(self, table: str) -> StructType:
        """The Spark schema of a table as `schemas/` has it."""
        columns = BY_NAME[table].columns
        schema = StructType()
        for column in columns:
            schema = schema.add(column.name, _parse_datatype_string(column.type), column.nullable)
        return schema

    def frame(self, table: str, rows: Sequence[Mapping[str, Any]]) -> DataFrame:
        """Rows from the driver as a frame of that table; `recorded_at` is filled in.

        Raises:
            KeyError: a row lacks a column that may not be null.
        """
        now = datetime.now(UTC)
        data = [
            {
                column.name: filled.get(column.name) if column.nullable else filled[column.name]
                for column in BY_NAME[table].columns
            }
            for filled in ({"recorded_at": now, **row} for row in rows)
        ]
        return local_frame(self.spark, data, self.struct(table))

    def shape(self, table: str, frame: DataFrame) -> DataFrame:
        """The frame with exactly the table's columns, in order and cast; `recorded_at` is filled in."""
        if "recorded_at" in BY_NAME[table].names and "recorded_at" not in frame.columns:
            frame = frame.withColumn("recorded_at", F.current_timestamp())
        missing = [name for name in BY_NAME[table].names if name not in frame.columns]
        if missing:
            raise SchemaError(f"a frame for table {table} lacks {', '.join(missing)}")
        return frame.select([F.col(f"`{c.name}`").cast(c.type).alias(c.name) for c in BY_NAME[table].columns])

    def append(self, table: str, frame: DataFrame, *, once: str | None = None) -> None:
        """Append a frame in one commit.

        Args:
            table: the table.
            frame: rows with the table's columns.
            once: an id of this very commit; a second commit under the same id is skipped by Delta, so that a retry
                can't write rows twice.
        """
        self.ready(table)
        writer = self.shape(table, frame).write.format("delta").mode("append")
        if once is not None:
            writer = writer.option("txnAppId", once).option("txnVersion", 1)
        # A commit under an id that another process has meanwhile made is refused, and skipped at the next try.
        retry_conflicts(f"table {table}", lambda: writer.saveAsTable(self.name(table)))

    def append_rows(self, table: str, rows: Sequence[Mapping[str, Any]], *, once: str | None = None) -> None:
        """Append rows held by the driver in one commit; no rows, no commit."""
        if rows:
            self.append(table, self.frame(table, rows).coalesce(1), once=once)

    def replace(
        self,
        table: str,
        frame: DataFrame,
        scope: Mapping[str, str | int],
        *,
        may: Callable[[], None] = lambda: None,
    ) -> None:
        """Write a frame in place of all rows of a scope, in one commit: what is run again replaces, never doubles.

        Args:
            table: the table.
            frame: rows, all within the scope.
            scope: column to value.
            may: called before each try, and raises where it may not be written any more: a commit of these rows by another
                driver makes Delta refuse this one, which is tried again.
        """
        self.ready(table)
        condition = " AND ".join(
            f"`{name}` = {value if isinstance(value, int) else quote(value)}" for name, value in scope.items()
        )
        writer = self.shape(table, frame).write.format("delta").mode("overwrite")
        writer = writer.option("replaceWhere", condition)

        def commit() -> None:
            may()
            writer.saveAsTable(self.name(table))

        retry_conflicts(f"table {table}", commit)


def partition_columns(lines: Sequence[str]) -> tuple[str, ...]:
    """The partition columns among the lines of DESCRIBE TABLE, where other sections, as on clustering, look alike."""
    if "# Partition Information" not in lines:
        return ()
    section = lines[lines.index("# Partition Information") + 1 :]
    names = section[1:] if section[:1] == ["# col_name"] else section
    return tuple(takewhile(lambda line: line and not line.startswith("# "), names))


def _may_change_rows(commit: Row) -> bool:
    """Whether a row of a table's history is of a commit that may have changed or removed rows."""
    if commit["operation"] in _ROWS_STAY:
        return False
    if commit["operation"] != "WRITE":
        return True
    if (commit["operationParameters"] or {}).get("mode") == "Append":
        return False
    # A replacement of rows that were not there yet; a writer need not tell.
    metrics = commit["operationMetrics"] or {}
    return any(metrics.get(name) != "0" for name in ("numRemovedFiles", "numDeletedRows"))


def _version_in(properties: Mapping[str, str]) -> int:
    return int(properties.get("mart.table_version", "1"))


def _wrong_columns(table: Table, have: Mapping[str, StructField]) -> Iterator[tuple[str, str]]:
    """What is wrong with a table's columns, each with its remedy, where `{table}` stands for ALTER TABLE and its name."""
    migrated = {name for names in table.added.values() for name in names}  # which may be null in older rows
    for column in table.columns:
        found = have.get(column.name)
        if found is None:
            yield f"{column.name} is missing", "restore the column"
        elif found.dataType != _parse_datatype_string(column.type):
            yield (
                f"{column.name} is {found.dataType.simpleString()}, not {column.type.lower()}",
                "restore the column",
            )
        elif found.nullable and not column.nullable and column.name not in migrated:
            yield f"{column.name} may be null", f"{{table}} ALTER COLUMN `{column.name}` SET NOT NULL"
        elif column.nullable and not found.nullable:
            yield f"{column.name} may not be null", f"{{table}} ALTER COLUMN `{column.name}` DROP NOT NULL"


def _wrong_rules(table: Table, properties: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The same of its constraints, and of how long it keeps old versions."""
    for name, rule in table.checks.items():
        found = properties.get(f"delta.constraints.{name}")
        if found is None or found.split() != rule.split():
            what = f"is {found}, not {rule}" if found else "is missing"
            drop = f"{{table}} DROP CONSTRAINT {name}, " if found else ""
            yield f"constraint {name} {what}", f"{drop}{{table}} ADD CONSTRAINT {name} CHECK ({rule})"
    for key, value in _RETENTION.items():
        found = properties.get(key)
        if found is None or _days(found) < _days(value):
            remedy = f"{{table}} SET TBLPROPERTIES ({quote(key)} = {quote(value)})"
            yield f"{key} is {found or 'not set'}, and audits read what is older", remedy


def _days(interval: str) -> float:
    """The days of `interval 7 days`; none of an interval in another unit."""
    found = re.fullmatch(r"(?:interval )?(\d+) days?", interval.strip(), re.IGNORECASE)
    return int(found[1]) if found else 0


def _nullable(column: Column) -> Column:
    return Column(column.name, column.type, column.comment, nullable=True, volatile=column.volatile)
