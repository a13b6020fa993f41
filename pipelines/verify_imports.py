"""`mart verify` of imported data: digests of texts, examples and suites, and the totals of imports."""

from collections import Counter
from collections.abc import Iterator
from functools import reduce

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from pipelines.import_kinds import KINDS
from pipelines.imports import suite_digest
from pipelines.lakehouse import Lakehouse
from schemas.manifests import reward_example_sha256

# The column that an imported text's digest is of.
_TEXTS = {"seed_prompts": "text", "instructions": "instruction", "evaluation_prompts": "text"}


def wrong_text(text: str, sha: str = "text_sha256") -> Column:
    """The condition that a digest is not `schemas.digests.text_sha256` of a text, by column names."""
    return F.sha2(F.col(text), 256) != F.col(sha)


def wrong_imports(lakehouse: Lakehouse) -> Iterator[str]:
    """What of the imported tables does not hold: one query over their rows, whichever run uses them.

    A data set may have more rows than its imports count, of one that goes on or was killed; never fewer.
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
        parts = row["rows_new"], row["rows_repeated"], row["rows_refused"]
        if row["rows_in"] != sum(parts):
            yield f"{what} read {row['rows_in']} rows, and its new, repeated and refused ones are {sum(parts)}"
        if (refused := rows["import_refusals", row["import_id"]]) != row["rows_refused"]:
            yield f"{what} refused {row['rows_refused']} rows, import_refusals has {refused}"
    for (table, of), expected in sorted(counted.items()):
        if (have := rows[table, of]) < expected:
            yield f"{table} has {have} rows of data set {of}, its imports wrote {expected}"


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
