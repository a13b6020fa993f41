"""`mart verify` of checkpoints: recipe, training rows, their origins, snapshot and weights, each against its digest."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from pipelines.artifacts import Artifacts
from pipelines.errors import IntegrityError
from pipelines.lakehouse import Lakehouse
from pipelines.origins import origins_of, tables_of
from pipelines.training_jobs import REWARD_ROLES, prove_registered
from schemas.digests import digest, json_object, root_digest
from schemas.manifests import SNAPSHOT_FILE, SnapshotManifest, reward_example_sha256, sft_example_sha256
from schemas.tables import BY_NAME

NAMED = 3  # how many differing rows a finding names


def wrong_checkpoints(
    lakehouse: Lakehouse, artifacts: Artifacts, wanted: set[str]
) -> Iterator[tuple[str, list[str]]]:
    """Each checkpoint's short name, and what of its recipe, training rows, origins, snapshot and weights does not hold."""
    table = lakehouse.read("checkpoints").where(F.col("checkpoint_id").isin(sorted(wanted)))
    rows = {row["checkpoint_id"]: row for row in table.collect()}
    recipes = {name: _recipe(row["recipe"]) for name, row in rows.items()}
    training = _training_rows(lakehouse, {name: recipe for name, recipe in recipes.items() if recipe})
    origins = _origins(lakehouse, sorted(rows))
    for checkpoint_id in sorted(wanted):
        row = rows.get(checkpoint_id)
        recipe = recipes.get(checkpoint_id)
        if row is None:
            found = ["it is not registered"]
        elif recipe is None:
            found = ["its recipe is none"]
        else:
            found = list(_checkpoint(artifacts, row, recipe))
        yield checkpoint_id[:12], found + training.get(checkpoint_id, []) + origins.get(checkpoint_id, [])


def _recipe(text: str) -> Mapping[str, Any] | None:
    """A checkpoint's recipe; None where that is not what the text is."""
    recipe = json_object(text)
    return recipe if recipe and {"role", "training_root", "settings"} <= recipe.keys() else None


def _checkpoint(artifacts: Artifacts, row: Row, recipe: Mapping[str, Any]) -> Iterator[str]:
    """Recipe, snapshot and weights of a checkpoint, each against its digest."""
    checkpoint_id = row["checkpoint_id"]
    if digest(recipe) != checkpoint_id:
        yield "its recipe does not give its id"
    yield from wrong_snapshot(artifacts.snapshot(checkpoint_id), recipe)
    try:
        manifest = prove_registered(artifacts, row.asDict())
    except IntegrityError as error:
        yield str(error)
        return
    for name, value in recipe["settings"].items():
        if (used := manifest.settings.get(name)) != value:
            yield f"its recipe says settings.{name} {value}, its manifest says {used}"


def wrong_snapshot(folder: Path, recipe: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the training set that a checkpoint was trained from, as files: the manifest, its files, their rows."""
    try:
        snapshot = SnapshotManifest.model_validate_json((folder / SNAPSHOT_FILE).read_text())
        changes = [change for entry in snapshot.files if (change := entry.difference(folder))]
        yield from changes
        if snapshot.root != recipe["training_root"]:
            yield f"{folder / SNAPSHOT_FILE} has root {snapshot.root}, the recipe says {recipe['training_root']}"
        if not changes:
            # The manifest is a file beside the others: only the rows themselves give the root.
            files = [folder / entry.name for entry in snapshot.files]
            yield from (f"{folder}: {item}" for item in wrong_rows(_file_rows(files), recipe))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        yield f"its snapshot can't be read: {error}"


def _file_rows(files: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    """The rows of Parquet files in order of position."""
    if files:
        tables = [pq.read_table(file, partitioning=None) for file in files]
        for batch in pa.concat_tables(tables).sort_by("position").to_batches(max_chunksize=1000):
            yield from batch.to_pylist()


def _origins(lakehouse: Lakehouse, checkpoints: Sequence[str]) -> dict[str, list[str]]:
    """What is wrong with the kept origins of each checkpoint: they must be what its training rows give.

    But for the names of data sets: a later import may hold a text, too.
    """
    same = [name for name in BY_NAME["checkpoint_origins"].key if name != "datasets"]
    given = origins_of(tables_of(lakehouse), checkpoints)
    kept = lakehouse.read("checkpoint_origins").where(F.col("checkpoint_id").isin(list(checkpoints)))
    sides = [
        given.select(*same, F.col("training_rows").alias("given"), F.lit(0).alias("kept")),
        kept.select(*same, F.lit(0).alias("given"), F.col("training_rows").alias("kept")),
    ]
    rows = reduce(DataFrame.unionAll, sides).groupBy(*same)
    counted = (
        rows.agg(F.sum("given").alias("given"), F.sum("kept").alias("kept"))
        .groupBy("checkpoint_id")
        .agg(F.count_if(F.col("given") != F.col("kept")).alias("wrong"), F.sum("kept").alias("kept"))
    )
    return {
        row["checkpoint_id"]: [
            f"{row['wrong']} of its origins are not what its training rows give"
            if row["kept"]
            else "its origins are not kept; `mart run` of any run, or `mart step begin`, fills them in"
        ]
        for row in counted.where("wrong > 0").collect()
    }


def _training_rows(lakehouse: Lakehouse, recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """What is wrong with the training rows of each checkpoint; rows are streamed, one query for all."""
    columns = ("checkpoint_id", "position", "input", "output", "weight", "label", "rejected", "split")
    rows = (
        lakehouse.read("training_examples")
        .where(F.col("checkpoint_id").isin(sorted(recipes)))
        .select(*columns, "example_sha256")
        .orderBy("checkpoint_id", "position")
    )
    wrong = {name: wrong_rows(iter(()), recipe) for name, recipe in recipes.items()}
    for name, mine in groupby(rows.toLocalIterator(), key=lambda row: row["checkpoint_id"]):
        wrong[name] = wrong_rows(mine, recipes[name])
    return wrong


def wrong_rows(rows: Iterator[Mapping[str, Any] | Row], recipe: Mapping[str, Any]) -> list[str]:
    """What is wrong with a checkpoint's training rows, which come in order of position and are not kept."""
    wrong: list[str] = []
    place = 0

    def digests() -> Iterator[str]:
        nonlocal place
        for row in rows:
            if recipe["role"] in REWARD_ROLES:
                value = reward_example_sha256(
                    row["input"], row["output"], row["label"], row["rejected"], row["split"]
                )
            else:
                value = sft_example_sha256(row["input"], row["output"], row["weight"], recipe["role"])
            if row["position"] != place and len(wrong) < NAMED:
                wrong.append(f"training row {row['position']} stands at place {place}")
            if value != row["example_sha256"] and len(wrong) < NAMED:
                wrong.append(f"training row {row['position']} does not have the digest of its content")
            place += 1
            yield value

    if root_digest(digests()) != recipe["training_root"]:
        wrong.append(f"its {place} training rows do not give the root that its recipe names")
    return wrong
