"""`mart data import`: the user's files and tables become seeds, instructions, preferences and evaluation prompts.

Rows are read in batches, checked and set aside (`import_staging`); when the source is read to its end, all of them come
in one commit, so that no reader ever has a part of an import. The commit carries the totals, for the row in `imports`
that comes last. An import that was killed before that commit begins anew. Keys are told apart on the driver by a set of
16-byte digests (about 100 bytes each: 100 MB for a million rows), since a join for every batch would take longer.
"""

import difflib
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import Row as SparkRow
from pyspark.sql import functions as F

from pipelines.config import DataConfig, ImportConfig, RunConfig
from pipelines.errors import ConfigError, DataError, IntegrityError
from pipelines.functions import import_function
from pipelines.import_kinds import KINDS, Field, Kind
from pipelines.import_staging import Staging, is_begun
from pipelines.lakehouse import Lakehouse, local_frame, quote, retry_conflicts
from pipelines.readers import Refusal, Row, Source, excerpt, open_source
from pipelines.steps.common import union
from schemas.digests import canonical_json, digest
from schemas.manifests import LOSS_FIELDS
from schemas.tables import BY_NAME

log = logging.getLogger(__name__)

# Raised when a rule changes what an import makes of the same source, so that it is imported anew.
RULES = 1
BATCH_ROWS = 20_000
BATCH_CHARACTERS = 16_000_000
_SHOWN_VALUES = 10
_NOTE = re.compile(
    r"mart import [0-9a-f]{64} new (?P<new>\d+) repeated (?P<repeated>\d+) refused (?P<refused>\d+)"
)


@dataclass(frozen=True, slots=True)
class ImportTotals:
    """What became of an import's rows; `rows_in = new + repeated + refused`.

    Attributes:
        rows_in: rows read, those left out by `where` not among them.
        new: rows written.
        repeated: rows whose key stood earlier in the source or was in the table already.
        refused: rows kept in `import_refusals`.
        import_id: key of the row in `imports`.
    """

    rows_in: int
    new: int
    repeated: int
    refused: int
    import_id: str


def import_all(lakehouse: Lakehouse, config: DataConfig, prepared: Path) -> list[ImportTotals]:
    """Prepare the user's files where the configuration says how, then run each import in its order.

    Args:
        lakehouse: with its tables in place.
        config: the `data` part of a run's configuration.
        prepared: folder that `data.prepare` fills, and what `{prepared}` stands for.

    Raises:
        ConfigError: `data.prepare` names no function.
        DataError: as `import_source`.
    """
    if config.prepare:
        prepared.mkdir(parents=True, exist_ok=True)
        import_function(config.prepare)(prepared)
    items = [
        item.model_copy(update={"path": item.path.replace("{prepared}", str(prepared))})
        for item in config.imports
    ]
    # Imports into one table follow each other, since each looks for the keys that are there; tables run side by side.
    tables: dict[str, list[ImportConfig]] = {}
    for item in items:
        tables.setdefault(KINDS[item.kind].table, []).append(item)

    def one_table(mine: list[ImportConfig]) -> list[ImportTotals]:
        return [import_source(lakehouse, item) for item in mine]

    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="import") as pool:
        totals = dict(zip(tables, pool.map(one_table, tables.values()), strict=True))
    turns = {table: iter(found) for table, found in totals.items()}
    return [next(turns[KINDS[item.kind].table]) for item in items]


def check_datasets(lakehouse: Lakehouse, config: RunConfig) -> None:
    """Refuse a configuration that names a data set of which it would read nothing: it would be taken for an empty one.

    Raises:
        ConfigError: it was never imported whole, and names those that are there; or none of its rows is of the split and kind
            that are read.
    """
    data = config.data
    wanted: list[tuple[str, str | None, str, dict[str, str]]] = [
        ("data.seeds", data.seeds, "seed_prompts", {"kind": "forbidden", "split": "train"}),
        ("data.benign", data.benign, "seed_prompts", {"kind": "benign", "split": "train"}),
        ("data.instructions", data.instructions, "instructions", {"split": "train"}),
        ("data.warm_start", data.warm_start, "instructions", {"split": "warm_start"}),
        ("data.suites", data.suites, "evaluation_prompts", {"split": data.split}),
        *(
            (f"reward_models.{aspect}.dataset", model.dataset, "preferences", {})
            for aspect, model in config.reward_models.items()
        ),
    ]
    named = [(key, name, table, read) for key, name, table, read in wanted if name is not None]
    told = {table: sorted({*read, "dataset"}) for _, _, table, read in named}
    found = union(
        [
            lakehouse.read(table)
            .select(F.lit(table).alias("table"), "dataset", F.to_json(F.struct(*columns)).alias("of"))
            .distinct()
            for table, columns in told.items()
        ]
    )
    rows: dict[str, list[dict[str, str]]] = {table: [] for table in told}
    for row in found.collect():
        rows[row["table"]].append(json.loads(row["of"]))
    for key, name, table, read in named:
        there = sorted({row["dataset"] for row in rows[table]})
        if name not in there:
            begun = is_begun(lakehouse, table, name)
            near = difflib.get_close_matches(name, there, n=1)
            raise ConfigError(
                f"{key} is {name!r}, of which no row was imported into {table}"
                + ("; an import of it was begun and has not ended: run it again" if begun else "")
                + (f"; did you mean {near[0]!r}?" if near else f"; there: {', '.join(there) or 'none yet'}.")
                + " `mart data import`, or data.imports, brings data in"
            )
        mine = [row for row in rows[table] if row["dataset"] == name]
        if not any(read.items() <= row.items() for row in mine):
            asked = " and ".join(f"{column} {value!r}" for column, value in read.items())
            have = "; ".join(sorted({", ".join(f"{c} {row[c]!r}" for c in read) for row in mine}))
            raise ConfigError(
                f"{key} is {name!r}, none of whose rows has the {asked} that a run reads there; they have {have}. Import it with "
                "those, or name another"
            )


def check_losses(lakehouse: Lakehouse, config: RunConfig) -> None:
    """Refuse a configuration whose reward models can't learn from the rows that their data sets have to train on.

    Of a run that is to begin: one that has trained its reward models no longer depends on what is imported later.

    Raises:
        ConfigError: a data set has no such rows, some lack what the loss needs, or some are held-out rows as well.
    """
    for aspect, model in config.reward_models.items():
        if model.dataset is None:
            continue
        needed = model.settings.needed_field
        mine = (F.col("dataset") == model.dataset) & (F.col("aspect") == aspect)
        learned = F.col("split") == "train"
        examples = (
            lakehouse.read("preferences")
            .where(mine)
            .groupBy("input", "output")
            .agg(
                F.count_if(learned).alias("rows"),
                F.count_if(learned & F.col(needed).isNotNull()).alias("usable"),
                F.count_if(~learned).alias("held_out"),
            )
        )
        both = F.when(F.col("held_out") > 0, F.col("rows")).otherwise(0)
        sums = [F.coalesce(F.sum(column), F.lit(0)) for column in ("rows", "usable", both)]
        rows, usable, repeated = examples.select(*sums).collect()[0]
        if not rows:
            raise ConfigError(
                f"reward_models.{aspect}.dataset is {model.dataset!r}, of which no row has the aspect {aspect!r} and the split "
                "'train': there is nothing to learn"
            )
        if usable < rows:
            other = next(loss for loss in LOSS_FIELDS if loss != model.settings.loss)
            raise ConfigError(
                f"reward_models.{aspect}.settings.loss is {model.settings.loss!r}, which needs {needed!r}, and {rows - usable} of "
                f"{rows} rows of {model.dataset!r} to train on have none; {other!r} learns from {LOSS_FIELDS[other]!r}"
            )
        if repeated:
            raise ConfigError(
                f"reward_models.{aspect}.dataset is {model.dataset!r}, and {repeated} of its {rows} rows to train on are held-out "
                "rows, too (the same input and output), which would flatter its agreement: leave them out of one of the splits, and "
                "import the rest as another data set"
            )


def import_source(lakehouse: Lakehouse, item: ImportConfig) -> ImportTotals:
    """Import a file or table; what was imported before is left as it is and its totals are returned.

    Raises:
        DataError: the source, a field or a constant is not what it must be; nothing was imported then.
        IntegrityError: the totals do not add up; likewise.
    """
    clock = time.monotonic()
    plan = Plan(item)
    source = open_source(lakehouse.spark, item.path)
    content = source.sha256()
    row: dict[str, Any] = {
        "dataset": item.dataset,
        "kind": item.kind,
        "source": source.name,
        "source_sha256": content,
        "mapping": plan.mapping,
    }
    import_id = import_identity(row)
    if (done := _finished(lakehouse, import_id)) is not None:
        log.info("import %s of %s was finished before", item.dataset, source.name)
        return done
    plan.require_columns(source)
    totals = _write(lakehouse, plan, source, import_id)
    row |= {
        "import_id": import_id,
        "rows_in": totals.rows_in,
        "rows_new": totals.new,
        "rows_repeated": totals.repeated,
        "rows_refused": totals.refused,
    }
    lakehouse.append_rows("imports", [row], once=import_id)
    if totals.refused:
        log.warning("import %s: %d rows refused; see import_refusals", item.dataset, totals.refused)
    log.info("import %s of %s took %.1f s", item.dataset, source.name, time.monotonic() - clock)
    return totals


def import_identity(row: Mapping[str, Any] | SparkRow, rules: int = RULES) -> str:
    """The id of an import by its row in `imports`, under the rules of then."""
    return digest([rules, row["source_sha256"], row["kind"], row["mapping"], row["dataset"]])


def suite_digest(text_digests: Iterable[str]) -> str:
    """Digest of all prompts of a suite and split, whatever order they came in."""
    return digest(sorted(text_digests))


class Plan:
    """How an import reads a row: which column or constant each of our fields comes from.

    Raises:
        DataError: a field is not one of the kind's, is both mapped and constant, or a constant is not valid.
    """

    def __init__(self, item: ImportConfig) -> None:
        self.item = item
        self.kind: Kind = KINDS[item.kind]
        self.columns: dict[str, tuple[str, ...]] = {f.name: f.names for f in self.kind.fields}
        self.constants: dict[str, Any] = {}
        self.where_seen: dict[str, set[str]] = {column: set() for column in item.where}
        self._wanted = {column: frozenset(map(_plain, values)) for column, values in item.where.items()}
        mapped = {self._field(name).name: column for name, column in item.fields.items()}
        self.columns.update({name: (column,) for name, column in mapped.items()})
        for name, value in item.values.items():
            known = self._field(name)
            if known.name in mapped:
                raise DataError(f"{name} is given both under fields and under values; keep one of the two")
            try:
                self.constants[known.name] = known.read(value)
            except ValueError as error:
                raise DataError(f"values: {name} = {excerpt(value)} {error}") from None
        for what, shown in (("the data set's name", item.dataset), ("the licence", item.licence)):
            if not shown.strip() or not shown.isprintable():
                raise DataError(f"{what} {excerpt(shown)!r} must have visible characters only")
        try:
            self.mapping = canonical_json(
                {"fields": item.fields, "values": item.values, "where": item.where, "licence": item.licence}
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"values and where take texts, numbers and booleans: {error}") from None

    def _field(self, name: str) -> Field:
        for known in self.kind.fields:
            if name in known.names:
                return known
        names = [known.name for known in self.kind.fields]
        raise DataError(
            f"{self.item.kind} have no field {name!r}{_nearest(name, names)}; their fields are {', '.join(names)}"
        )

    def require_columns(self, source: Source) -> None:
        """Read until every column that is needed was seen.

        Raises:
            DataError: the source has no rows, or a column that no row has is needed.
        """
        needed: dict[tuple[str, ...], str] = {(column,): "where" for column in self.item.where}
        for known in self.kind.fields:
            names = self.columns[known.name]
            if known.name not in self.constants and (known.required or names != known.names):
                needed[names] = known.name
        seen: dict[str, None] = {}
        for _, row in source.rows():
            if isinstance(row, Refusal):
                continue
            seen.update(dict.fromkeys(row))
            needed = {
                names: wanted for names, wanted in needed.items() if not any(_has(row, n) for n in names)
            }
            if not needed:
                return
        if not seen:
            raise DataError(f"{source.name} has no rows that can be read, only broken lines or none")
        names, wanted = next(iter(needed.items()))
        remedy = (
            f"map it with fields: {{{wanted}: COLUMN}} or give it under values"
            if wanted != "where"
            else "correct it"
        )
        raise DataError(
            f"{source.name} has no column {' or '.join(map(repr, names))} for {wanted}{_nearest(names[0], list(seen))}; "
            f"its columns are {', '.join(excerpt(column) for column in list(seen)[:50])}; {remedy}"
        )

    def read(self, source: Source) -> Iterator[Row | Refusal]:
        """The rows of the target table, or why there is none; what `where` leaves out is left out."""
        for line, row in source.rows():
            if isinstance(row, Refusal):
                yield row
            elif self._taken(row):
                yield self._row(line, row)

    def _taken(self, row: Row) -> bool:
        taken = True
        for column, wanted in self._wanted.items():
            value = _plain(_value(row, column))
            if len(self.where_seen[column]) < _SHOWN_VALUES:
                self.where_seen[column].add(value)
            taken = taken and value in wanted
        return taken

    def _row(self, line: int, row: Row) -> Row | Refusal:
        values = dict(self.constants)
        for known in self.kind.fields:
            if known.name in values:
                continue
            column = next((name for name in self.columns[known.name] if _value(row, name) is not None), None)
            if column is None and known.required:
                shown = self.columns[known.name][0]
                return Refusal(line, known.name, f"the row has no {shown!r}; fill it in or remove the row")
            try:
                values[known.name] = known.default if column is None else known.read(_value(row, column))
            except ValueError as error:
                return Refusal(line, known.name, f"{column!r} {error}", excerpt(_value(row, str(column))))
        try:
            built = self.kind.build(values)
        except ValueError as error:
            return Refusal(line, None, str(error))
        return {"dataset": self.item.dataset, "licence": self.item.licence, **built}


def _value(row: Row, column: str) -> Any:
    """What a row has in a column, or below it: `messages.0.content` is the content of the first of its messages.

    A column of that very name goes first; None where there is nothing.
    """
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdecimal():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            return None
    return value


def _has(row: Row, column: str) -> bool:
    return column in row or _value(row, column) is not None


def _plain(value: Any) -> str:
    """A value as text, so that 1 in YAML meets "1" in CSV."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"; the nearest is {excerpt(near[0])!r}" if near else ""


@dataclass(slots=True)
class _Batch:
    """Rows read in one go: the state between two commits."""

    rows_in: int = 0
    characters: int = 0
    rows: list[Row] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return self.rows_in >= BATCH_ROWS or self.characters >= BATCH_CHARACTERS


def _batches(rows: Iterable[Row | Refusal]) -> Iterator[_Batch]:
    batch = _Batch()
    for row in rows:
        batch.rows_in += 1
        if isinstance(row, Refusal):
            batch.refusals.append(row)
        else:
            batch.rows.append(row)
            batch.characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if batch.full:
            yield batch
            batch = _Batch()
    if batch.rows_in:
        yield batch


def _write(lakehouse: Lakehouse, plan: Plan, source: Source, import_id: str) -> ImportTotals:
    """Read the source to its end, then commit what it gave, unless an attempt that was killed later has."""
    table, dataset = plan.kind.table, plan.item.dataset
    keys = _keys(lakehouse, table, dataset) if lakehouse.version(table) else set()
    staging = Staging(lakehouse, import_id, dataset)
    # Asked after the keys: those of another driver's commit would otherwise be taken for repeated rows.
    if keys and (committed := _committed(lakehouse, table, import_id)):
        staging.clear(others=True)
        return committed
    try:
        totals = _read(plan, source, keys, staging, import_id)
        if totals.refused:
            # They follow from source, mapping and rules, all of which the id covers: a second commit may be skipped.
            refusals = staging.frame("import_refusals")
            lakehouse.append("import_refusals", refusals, once=f"{import_id}:refusals")
        if totals.new:
            note = f"mart import {import_id} new {totals.new} repeated {totals.repeated} refused {totals.refused}"
            rows = staging.frame(table)
            retry_conflicts(f"table {table}", partial(_commit, lakehouse, table, dataset, rows, note))
    except Exception:
        staging.abandon()
        raise
    staging.clear()
    return totals


def _read(plan: Plan, source: Source, keys: set[bytes], staging: Staging, import_id: str) -> ImportTotals:
    """Stage the rows of a source whose keys are new, which are added to `keys`, and the refusals of others."""
    table = plan.kind.table
    # A suite's digest is that of all its prompts, which the commit knows.
    unknown = {"suite_digest": ""} if table == "evaluation_prompts" else {}
    rows_in = new = repeated = refused = 0
    for batch in _batches(plan.read(source)):
        fresh: list[Row] = []
        for row in batch.rows:
            if (key := _key(table, row)) not in keys:
                keys.add(key)
                fresh.append(row | unknown)
        refusals = [
            {"import_id": import_id, "dataset": plan.item.dataset, **asdict(item)} for item in batch.refusals
        ]
        staging.add({table: fresh, "import_refusals": refusals})
        rows_in += batch.rows_in
        new += len(fresh)
        repeated += len(batch.rows) - len(fresh)
        refused += len(refusals)
    if not rows_in:
        seen = "; ".join(
            f"{column} holds {', '.join(map(excerpt, sorted(v)))}" for column, v in plan.where_seen.items()
        )
        raise DataError(f"no row of {source.name} is among those that where takes: {seen}")
    if rows_in != new + repeated + refused:
        raise IntegrityError(
            f"import {import_id}: {rows_in} rows in, but {new} new, {repeated} repeated and {refused} refused; nothing was "
            "imported"
        )
    return ImportTotals(rows_in, new, repeated, refused, import_id)


def _commit(lakehouse: Lakehouse, table: str, dataset: str, rows: DataFrame, note: str) -> None:
    """One commit with a note of its totals; a suite is written anew with the digests that its new rows give it."""
    suites = table == "evaluation_prompts"
    frame = _suites(lakehouse, dataset, rows) if suites else rows
    lakehouse.ready(table)
    writer = lakehouse.shape(table, frame).write.format("delta").mode("overwrite" if suites else "append")
    if suites:
        writer = writer.option("replaceWhere", f"`dataset` = {quote(dataset)}")
    writer = writer.option("txnAppId", note.partition(" new ")[0]).option("txnVersion", 1)
    writer.option("userMetadata", note).saveAsTable(lakehouse.name(table))


def _suites(lakehouse: Lakehouse, dataset: str, rows: DataFrame) -> DataFrame:
    """All prompts of a data set, those there and the new ones, with the digests of their suites."""
    there = lakehouse.read("evaluation_prompts").where(F.col("dataset") == dataset)
    prompts = there.unionByName(rows).drop("suite_digest")
    suites: dict[tuple[str, str], list[str]] = {}
    for suite, split, text in _tuples(prompts.select("suite", "split", "text_sha256")):
        suites.setdefault((suite, split), []).append(text)
    known = local_frame(
        lakehouse.spark,
        [
            {"suite": suite, "split": split, "suite_digest": suite_digest(texts)}
            for (suite, split), texts in sorted(suites.items())
        ],
        "suite STRING, split STRING, suite_digest STRING",
    )
    return prompts.join(F.broadcast(known), on=["suite", "split"], how="inner").coalesce(1)


def _key_columns(table: str) -> tuple[str, ...]:
    return tuple(name for name in BY_NAME[table].key if name != "dataset")


def _key(table: str, row: Mapping[str, Any]) -> bytes:
    """16 bytes that stand for a row's key within its data set."""
    return hashlib.sha256("\x1f".join(row[name] for name in _key_columns(table)).encode()).digest()[:16]


def _keys(lakehouse: Lakehouse, table: str, dataset: str) -> set[bytes]:
    columns = _key_columns(table)
    there = lakehouse.read(table).where(F.col("dataset") == dataset).select(*columns)
    return {_key(table, dict(zip(columns, values, strict=True))) for values in _tuples(there)}


def _tuples(frame: DataFrame) -> Iterator[tuple[str, ...]]:
    """A frame's rows by way of Arrow: one job, and compact until a row is looked at."""
    for batch in frame.toArrow().to_batches():
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _committed(lakehouse: Lakehouse, table: str, import_id: str) -> ImportTotals | None:
    """The totals of an import whose rows are there, and whose row in `imports` may not be."""
    history = lakehouse.spark.sql(f"DESCRIBE HISTORY {lakehouse.name(table)}").select("userMetadata")
    noted = history.where(F.col("userMetadata").startswith(f"mart import {import_id} new ")).head()
    found = _NOTE.fullmatch(noted["userMetadata"]) if noted else None
    if found is None:
        return None
    parts = int(found["new"]), int(found["repeated"]), int(found["refused"])
    return ImportTotals(sum(parts), *parts, import_id)


def _finished(lakehouse: Lakehouse, import_id: str) -> ImportTotals | None:
    row = lakehouse.read("imports").where(F.col("import_id") == import_id).head()
    if row is None:
        return None
    return ImportTotals(row["rows_in"], row["rows_new"], row["rows_repeated"], row["rows_refused"], import_id)
