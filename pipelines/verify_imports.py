"""`mart verify` of what a run was given: ids, totals and digests of imports, and that nothing it read has changed."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial, reduce

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from pipelines.import_kinds import KINDS
from pipelines.imports import RULES, import_identity, suite_digest
from pipelines.lakehouse import Lakehouse
from pipelines.verify_checkpoints import NAMED
from schemas.manifests import reward_example_sha256
from schemas.tables import BY_NAME

# What a commit of imported rows carries.
_NOTE = re.compile(r"mart import (?P<id>[0-9a-f]{64}) (batch \d+ )?new (?P<new>\d+) ")
# The column that an imported text's digest is of.
_TEXTS = {"seed_prompts": "text", "instructions": "instruction", "evaluation_prompts": "text"}


def wrong_text(text: str, sha: str = "text_sha256") -> Column:
    """The condition that a digest is not `schemas.digests.text_sha256` of a text, by column names."""
    return F.sha2(F.col(text), 256) != F.col(sha)


def wrong_imports(lakehouse: Lakehouse) -> Iterator[str]:
    """What of the imported tables does not hold: one query over their rows, whichever run uses them.

    A data set may have more rows than its imports count, of one whose own row is yet to come, which its commit's note
    tells; never fewer.
    """
    # Read first: an import's own row comes last, so that what it counts is there.
    imports = lakehouse.read("imports").collect()
    found = {(row["table"], row["of"], row["part"]): row for row in _groups(lakehouse).collect()}
    rows: Counter[tuple[str, str]] = Counter()
    for (table, of, part), row in sorted(found.items()):
        rows[table, of] += row["rows"]
        if row["wrong"]:
            yield (
                f"{row['wrong']} rows of {table}, data set {of}, do not have the digest of their content; the first "
                f"is {row['first']}"
            )
        if table == "evaluation_prompts" and row["digests"] != [suite_digest(row["texts"])]:
            yield f"suite {part} of data set {of} does not have the digest of its {row['rows']} prompts"
    counted: Counter[tuple[str, str]] = Counter()
    for row in imports:
        what = f"import {row['import_id'][:12]} of {row['dataset']}"
        counted[KINDS[row["kind"]].table, row["dataset"]] += row["rows_new"]
        if row["import_id"] not in {import_identity(row, rules) for rules in range(1, RULES + 1)}:
            yield f"{what} does not have the id that its source's digest, kind, mapping and data set give"
        parts = row["rows_new"], row["rows_repeated"], row["rows_refused"]
        if row["rows_in"] != sum(parts):
            yield f"{what} read {row['rows_in']} rows, and its new, repeated and refused ones are {sum(parts)}"
        if (refused := rows["import_refusals", row["import_id"]]) != row["rows_refused"]:
            yield f"{what} refused {row['rows_refused']} rows, import_refusals has {refused}"
    # Asked last: a commit that came before the rows were read is noted.
    noted = cache(partial(_uncounted, lakehouse, {row["import_id"]: row["rows_new"] for row in imports}))
    tables = {kind.table for kind in KINDS.values()}
    for table, of in sorted({*counted, *(group for group in rows if group[0] in tables)}):
        have, expected = rows[table, of], counted[table, of]
        if have < expected:
            yield f"{table} has {have} rows of data set {of}, its imports wrote {expected}"
        elif have > expected and (more := noted(table)) is not None and have > expected + more:
            yield f"{table} has {have} rows of data set {of}, its imports wrote {expected + more}: no import brought the others"


def _uncounted(lakehouse: Lakehouse, imports: Mapping[str, int], table: str) -> int | None:
    """Rows that imports committed to a table, by the notes in its history, and that no row of `imports` counts.

    They are of imports that are under way, or were killed before that row, maybe by an older version, which committed in
    batches. None where the history no longer begins with the table, so that it can't be told.
    """
    history = lakehouse.spark.sql(f"DESCRIBE HISTORY {lakehouse.name(table)}").select(
        "version", "userMetadata"
    )
    commits = history.collect()
    if min(commit["version"] for commit in commits):
        return None
    noted: Counter[str] = Counter()
    for commit in commits:
        if found := _NOTE.match(commit["userMetadata"] or ""):
            noted[found["id"]] += int(found["new"])
    return sum(max(new - imports.get(name, 0), 0) for name, new in noted.items())


def older_than(table: str, newest: int, recorded: int) -> str:
    """What is told of a table that no longer has the version that a step recorded."""
    return f"{table} is at version {newest}, a step recorded version {recorded}: it was made anew, or comes from an older copy"


def changed_inputs(
    lakehouse: Lakehouse, reads: Sequence[Mapping[str, int]], runs: Sequence[str]
) -> Iterator[str]:
    """What steps read and none of them publishes must still be there as at the versions they recorded.

    That is imported data, but for a suite's digest, which a later import renews, and the runs' judges.

    Args:
        lakehouse: the tables.
        reads: of each step, table to version.
        runs: whose steps they are.
    """
    for table in sorted({*(kind.table for kind in KINDS.values()), "scorers"}):
        current = lakehouse.version(table)
        versions = sorted({read[table] for read in reads if table in read} - {current})
        if versions and versions[-1] > current:
            yield older_than(table, current, versions[-1])
            continue
        if not versions:
            continue
        columns = [name for name in BY_NAME[table].stable if name != "suite_digest"]
        mine = F.col("run_id").isin(list(runs)) if table == "scorers" else F.lit(True)
        then = [lakehouse.read(table, version).where(mine).select(columns) for version in versions]
        gone = reduce(DataFrame.unionAll, then).subtract(lakehouse.read(table, current).select(columns))
        for row in gone.select(*BY_NAME[table].key).limit(NAMED).collect():
            yield f"{table} was changed since it was read (version {versions[-1]} or before): {', '.join(map(str, row))}"


def _groups(lakehouse: Lakehouse) -> DataFrame:
    """Each data set's rows and how many are wrong, a suite's texts and digests, and each import's refusals."""
    none = F.lit(None).cast("string")
    frames = [
        lakehouse.read(table).select(
            F.lit(table).alias("table"), F.col("dataset").alias("of"),
            (F.concat_ws(" ", "suite", "split") if table == "evaluation_prompts" else F.lit("")).alias("part"),
            F.when(wrong_text(text), F.col("text_sha256")).alias("wrong"),
            (F.col("text_sha256") if table == "evaluation_prompts" else none).alias("text"),
            (F.col("suite_digest") if table == "evaluation_prompts" else none).alias("digest"),
        )
        for table, text in _TEXTS.items()
    ]  # fmt: skip
    content = pandas_udf(_examples, "string")(*map(F.col, ("input", "output", "label", "rejected", "split")))  # type: ignore[call-overload]
    frames.append(
        lakehouse.read("preferences").select(
            F.lit("preferences"), "dataset", F.lit(""),
            F.when(content != F.col("example_sha256"), F.col("example_sha256")), none, none,
        )
    )  # fmt: skip
    refusals = lakehouse.read("import_refusals")
    frames.append(refusals.select(F.lit("import_refusals"), "import_id", F.lit(""), none, none, none))
    return (
        reduce(DataFrame.unionAll, frames)
        .groupBy("table", "of", "part")
        .agg(
            F.count("*").alias("rows"),
            F.count("wrong").alias("wrong"),
            F.min("wrong").alias("first"),
            F.collect_list("text").alias("texts"),
            F.collect_set("digest").alias("digests"),
        )
    )


def _examples(
    input: pd.Series, output: pd.Series, label: pd.Series, rejected: pd.Series, split: pd.Series
) -> pd.Series:
    """Digests of preferences."""
    rows = zip(input, output, label, rejected, split, strict=True)
    return pd.Series(
        [
            reward_example_sha256(
                asked,
                answer,
                None if pd.isna(share) else float(share),
                None if pd.isna(other) else other,
                part,
            )
            for asked, answer, share, other, part in rows
        ],
        dtype="object",
    )
