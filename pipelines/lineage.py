"""Lineage: what made a checkpoint, and what a source went into, all the way.

Only sets of checkpoints come to the driver; rows stay in Spark.
"""

import difflib
import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from pipelines.errors import DataError
from pipelines.lakehouse import Lakehouse
from pipelines.shown import printable

_IMPORTED = {
    "seed_prompts": "text",
    "instructions": "instruction",
    "preferences": "output",
    "evaluation_prompts": "text",
}
_KEYS = {"preferences": "example_sha256"}
# What each question asks besides tables.
CLOSURE_VIEWS = ("published_checkpoints", "published_steps", "checkpoint_inputs")
SOURCE_VIEWS = ("checkpoint_inputs", "checkpoint_training_data")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint within a closure.

    Attributes:
        checkpoint_id, run_id, round, role, kind, weights_sha256, training_root, training_rows: as in
            `checkpoints`.
        training_table_version: version of `training_examples` that it was trained from.
        distance: steps back from the checkpoint that was asked for.
        relations: what it was to the checkpoints on the way.
        versions: table to the version that its training set was drawn from.
    """

    checkpoint_id: str
    run_id: str
    round: int
    role: str
    kind: str
    weights_sha256: str
    training_root: str
    training_rows: int
    training_table_version: int
    distance: int
    relations: tuple[str, ...]
    versions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DataSet:
    """Rows of one origin in one checkpoint's training set; `name` is empty where models wrote them."""

    checkpoint_id: str
    source: str
    table: str
    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class Selector:
    """A reward model that selected training rows; `checkpoint_id` is None where it was given finished."""

    name: str
    digest: str
    model: str
    checkpoint_id: str | None
    heldout_accuracy: float | None
    heldout_n: int | None


@dataclass(frozen=True, slots=True)
class Closure:
    """Everything a checkpoint rests on.

    Attributes:
        checkpoints: itself first, then its ancestors by distance.
        bases: digest of the tensors to the model source.
        hosted: endpoints whose answers selected training rows, to the model behind each.
        data_sets: what their training sets were made of.
        selectors: the reward models that selected.
    """

    checkpoints: tuple[Checkpoint, ...]
    bases: Mapping[str, str]
    hosted: Mapping[str, str]
    data_sets: tuple[DataSet, ...]
    selectors: tuple[Selector, ...]

    def render(self) -> str:
        """The closure as plain text; nothing in it can drive a terminal."""
        lines: list[str] = []
        for item in self.checkpoints:
            how = f"{item.distance} back, {', '.join(item.relations)}" if item.distance else "asked for"
            lines.append(f"{item.role} {item.checkpoint_id} ({how})")
            lines.append(
                f"  {item.kind}, run {item.run_id} round {item.round}, weights {item.weights_sha256}"
            )
            lines.append(
                f"  {item.training_rows} training rows, root {item.training_root}, "
                f"training_examples version {item.training_table_version}"
            )
            if item.versions:
                lines.append(
                    "  drawn from " + ", ".join(f"{k} version {v}" for k, v in sorted(item.versions.items()))
                )
            lines += [
                f"  {data.rows} x {data.source} from {data.table}"
                + (f", data set {data.name}" if data.name else "")
                for data in self.data_sets
                if data.checkpoint_id == item.checkpoint_id
            ]
        lines += [f"base {source}, tensors {digest}" for digest, source in sorted(self.bases.items())]
        lines += [f"hosted target {model} at {endpoint}" for endpoint, model in sorted(self.hosted.items())]
        for judge in self.selectors:
            agreement = (
                f", held-out {judge.heldout_accuracy:.3f} of {judge.heldout_n}"
                if judge.heldout_accuracy
                else ""
            )
            origin = f"checkpoint {judge.checkpoint_id}" if judge.checkpoint_id else judge.model
            lines.append(f"selected by {judge.name} {judge.digest}: {origin}{agreement}")
        return "\n".join(printable(line) for line in lines)


@dataclass(frozen=True, slots=True)
class Use:
    """What of a source is in one checkpoint's training set.

    Attributes:
        checkpoint_id, run_id, round, role: the checkpoint.
        rows_direct: training rows that hold it.
        rows_derived: training rows that models wrote with it at the root or among the examples shown.
        prompts, responses: what they wrote, counted once.
    """

    checkpoint_id: str
    run_id: str
    round: int
    role: str
    rows_direct: int
    rows_derived: int
    prompts: int
    responses: int


@dataclass(frozen=True, slots=True)
class SourceClosure:
    """The checkpoints that a source went into.

    Attributes:
        source: what was asked for.
        found: (table, data set, rows) where it stands.
        excerpt: the text, where one row was asked for.
        uses: checkpoints trained on it, or on what was written from it.
        further: other checkpoints that rest on those, with the ids of those.
    """

    source: str
    found: tuple[tuple[str, str, int], ...]
    excerpt: str | None
    uses: tuple[Use, ...]
    further: Mapping[str, tuple[str, ...]]

    def render(self) -> str:
        """The closure as plain text; nothing in it can drive a terminal."""
        lines = [
            f"{self.source}: {rows} rows of {table}, data set {dataset}"
            for table, dataset, rows in self.found
        ]
        if self.excerpt is not None:
            lines.append(f"  {self.excerpt[:200]}")
        if not self.uses:
            lines.append("went into no checkpoint")
        for use in self.uses:
            lines.append(f"{use.role} {use.checkpoint_id} (run {use.run_id} round {use.round})")
            lines.append(
                f"  {use.rows_direct} rows of it, {use.rows_derived} rows written from it: "
                f"{use.prompts} prompts, {use.responses} answers"
            )
        lines += [f"further down: {name}, by {', '.join(by)}" for name, by in sorted(self.further.items())]
        return "\n".join(printable(line) for line in lines)


def closure(lakehouse: Lakehouse, checkpoint_id: str) -> Closure:
    """What made a checkpoint, all the way back.

    Args:
        lakehouse: the tables, with the views of `sql/`.
        checkpoint_id: the id, or the beginning of one.

    Raises:
        DataError: no published checkpoint has that id, or several begin with it; or it rests on one that is not published.
    """
    known = {row["checkpoint_id"]: row for row in _view(lakehouse, "published_checkpoints").collect()}
    start = _find(checkpoint_id, known)
    inputs = _view(lakehouse, "checkpoint_inputs").collect()
    distances = _reach(start, _graph(inputs))
    reached = [row for row in inputs if row["checkpoint_id"] in distances]
    _check_known(reached)
    _check_published(lakehouse, reached, known)
    versions = _versions(lakehouse)
    checkpoints = [
        Checkpoint(
            **{name: known[name_id][name] for name in Checkpoint.__slots__[:9]},
            distance=distance,
            relations=tuple(sorted({row["relation"] for row in reached if row["ancestor_id"] == name_id})),
            versions=versions.get(name_id, {}),
        )
        for name_id, distance in distances.items()
        if name_id in known
    ]
    data_sets, selectors = _trained_on(lakehouse, [item.checkpoint_id for item in checkpoints])
    return Closure(
        checkpoints=tuple(
            sorted(checkpoints, key=lambda item: (item.distance, item.role, item.checkpoint_id))
        ),
        bases={row["ancestor_id"]: row["name"] for row in reached if row["relation"] == "base"},
        hosted={
            row["ancestor_id"]: row["name"]
            for row in reached
            if row["relation"] == "wrote_answers" and row["ancestor_id"] not in known
        },
        data_sets=data_sets,
        selectors=selectors,
    )


def source_closure(lakehouse: Lakehouse, source: str) -> SourceClosure:
    """Which checkpoints a source went into.

    Args:
        lakehouse: the tables, with the views of `sql/`.
        source: a data set's name, or the digest of a seed, instruction, evaluation prompt or preference.

    Raises:
        DataError: there is neither.
    """
    rows = _imported(lakehouse)
    in_set = rows.where(F.col("dataset") == source)
    found, by_name = _counted(in_set), True
    if not found:
        in_set = rows.where(F.col("id") == source)
        found, by_name = _counted(in_set), False
    if not found:
        names = [row["dataset"] for row in rows.select("dataset").distinct().collect()]
        raise DataError(
            f"no data set and no digest {printable(source)!r}; " + _nearest(source, names, "data set")
        )
    one = None if by_name else in_set.select("text").head()
    uses = _uses(lakehouse, source, in_set, by_name)
    trained = {use.checkpoint_id for use in uses}
    inputs = _view(lakehouse, "checkpoint_inputs").collect()
    _check_known(inputs)
    graph = _graph(inputs)
    further = {name: tuple(sorted(trained & _reach(name, graph).keys())) for name in graph.keys() - trained}
    return SourceClosure(
        source=source,
        found=tuple(sorted((row["table"], row["dataset"], row["rows"]) for row in found)),
        excerpt=one["text"] if one else None,
        uses=uses,
        further={name: by for name, by in further.items() if by},
    )


def _view(lakehouse: Lakehouse, name: str) -> DataFrame:
    return lakehouse.spark.table(lakehouse.name(name))


def _check_known(inputs: Iterable[Row]) -> None:
    """Refuse rows of `checkpoint_inputs` of which one says that nothing is known."""
    if unknown := sorted(row["checkpoint_id"] for row in inputs if row["relation"] == "unknown"):
        raise DataError(
            f"checkpoint {unknown[0]} was registered before its origins were kept: "
            "`mart run` of any run, or `mart step begin`, fills them in"
        )


def _check_published(lakehouse: Lakehouse, inputs: Iterable[Row], known: Container[str]) -> None:
    """Refuse rows of `checkpoint_inputs` of which one names a checkpoint that no published step trained.

    What it was made from is told nowhere, and what is left would pass for the whole.
    """
    # An endpoint and a judge that was given finished are no checkpoints.
    others = [row for row in inputs if row["relation"] != "base" and row["ancestor_id"] not in known]
    missing = {row["ancestor_id"]: row for row in others}
    if not missing:
        return
    registered = lakehouse.read("checkpoints").where(F.col("checkpoint_id").isin(sorted(missing)))
    for name in sorted(item["checkpoint_id"] for item in registered.select("checkpoint_id").collect()):
        row = missing[name]
        raise DataError(
            f"checkpoint {row['checkpoint_id']} rests on {name} ({row['relation']}), which is registered and which no published "
            "step trained, so that what that was made from can't be told; `mart verify` of the run says what its history lacks"
        )


def _nearest(wanted: str, names: Iterable[str], what: str) -> str:
    names = sorted(names)
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.0)
    return f"the nearest {what} is {printable(near[0])}" if near else f"there is no {what} yet"


def _find(wanted: str, known: Iterable[str]) -> str:
    known = set(known)
    matches = sorted(name for name in known if name.startswith(wanted)) if wanted else []
    if wanted in known:
        return wanted
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(matches[:5])
        raise DataError(
            f"{len(matches)} checkpoints begin with {printable(wanted)!r} ({shown}); write more of the id"
        )
    raise DataError(
        f"no published checkpoint {printable(wanted)!r}; " + _nearest(wanted, known, "checkpoint")
    )


def _graph(inputs: Iterable[Row]) -> dict[str, set[str]]:
    """A checkpoint to the ids one step back, from rows of `checkpoint_inputs`."""
    graph: dict[str, set[str]] = {}
    for row in inputs:
        graph.setdefault(row["checkpoint_id"], set()).add(row["ancestor_id"])
    return graph


def _reach(start: str, graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Everything reached from a checkpoint, with the least number of steps."""
    distances = {start: 0}
    frontier = {start}
    while frontier:
        steps = distances[next(iter(frontier))] + 1
        frontier = {name for item in frontier for name in graph.get(item, ())} - distances.keys()
        distances |= dict.fromkeys(frontier, steps)
    return distances


def _versions(lakehouse: Lakehouse) -> dict[str, dict[str, int]]:
    """A checkpoint to the table versions that its curate step read; a warm start's from the earliest run."""
    steps = (
        _view(lakehouse, "published_steps")
        .where("startswith(step, 'train_') OR startswith(step, 'curate_')")
        .select("run_id", "round", "step", "reads", "counts", "ended_at")
        .orderBy("ended_at", "run_id", "round")
        .collect()
    )
    reads = {(row["run_id"], row["round"], row["step"]): row["reads"] for row in steps}
    found: dict[str, dict[str, int]] = {}
    for row in steps:
        role = row["step"].removeprefix("train_")
        checkpoint = json.loads(row["counts"]).get("checkpoint_id") if role != row["step"] else None
        curated = reads.get((row["run_id"], row["round"], f"curate_{role}"))
        if checkpoint and curated and checkpoint not in found:
            found[checkpoint] = {str(table): int(version) for table, version in json.loads(curated).items()}
    return found


def _trained_on(lakehouse: Lakehouse, ids: list[str]) -> tuple[tuple[DataSet, ...], tuple[Selector, ...]]:
    """What the training sets of some checkpoints were made of, and who selected."""
    origins = lakehouse.read("checkpoint_origins").where(F.col("checkpoint_id").isin(ids)).collect()
    data_sets = [
        DataSet(
            row["checkpoint_id"], row["source"], row["source_table"], row["datasets"], row["training_rows"]
        )
        for row in origins
        if row["relation"] == "drawn_from"
    ]
    judged = {(row["name"], row["scorer_digest"]) for row in origins if row["relation"] == "selected_by"}
    known = lakehouse.read("scorers").where(F.col("scorer_digest").isin([digest for _, digest in judged]))
    # The same judge stands there once for each run that uses it.
    selectors = [
        Selector(
            name=row["name"],
            digest=row["scorer_digest"],
            model=row["model"],
            checkpoint_id=row["checkpoint_id"],
            heldout_accuracy=row["heldout_accuracy"],
            heldout_n=row["heldout_n"],
        )
        for row in (known.dropDuplicates(["name", "scorer_digest"]).collect() if judged else ())
        if (row["name"], row["scorer_digest"]) in judged
    ]
    return (
        tuple(sorted(data_sets, key=lambda item: (item.checkpoint_id, item.source, item.table, item.name))),
        tuple(sorted(selectors, key=lambda item: (item.name, item.digest))),
    )


def _imported(lakehouse: Lakehouse) -> DataFrame:
    """All imported rows: table, dataset, id, text."""
    frames = [
        lakehouse.read(table).select(
            F.lit(table).alias("table"),
            "dataset",
            F.col(_KEYS.get(table, "text_sha256")).alias("id"),
            F.col(text).alias("text"),
        )
        for table, text in _IMPORTED.items()
    ]
    first, *others = frames
    for other in others:
        first = first.unionByName(other)
    return first


def _counted(rows: DataFrame) -> list[Row]:
    return rows.groupBy("table", "dataset").agg(F.count("*").alias("rows")).collect()


def _uses(lakehouse: Lakehouse, source: str, in_set: DataFrame, by_name: bool) -> tuple[Use, ...]:
    """What of the source each checkpoint's training set holds; each training row counts once."""
    trained = _view(lakehouse, "checkpoint_training_data")
    tables = F.col("source_table").isin([name for name in _IMPORTED if name != "evaluation_prompts"])
    holds = F.array_contains("datasets" if by_name else "source_ids", source)
    seeds = in_set.where(F.col("table") == "seed_prompts").select("id").distinct()
    derived = (
        trained.where(F.col("prompt_id").isNotNull())
        .withColumn("id", F.explode(F.array_union("root_seed_ids", "parent_ids")))
        .join(seeds, on="id", how="left_semi")
        .drop("id")
        .dropDuplicates(["checkpoint_id", "position"])
    )
    direct = trained.where(tables & holds).withColumn("direct", F.lit(True))
    counted = (
        direct.unionByName(derived.withColumn("direct", F.lit(False)))
        .groupBy("checkpoint_id", "run_id", "round", "role")
        .agg(
            F.count_if("direct").alias("rows_direct"),
            F.count_if(~F.col("direct")).alias("rows_derived"),
            F.countDistinct("prompt_id").alias("prompts"),
            F.countDistinct(F.when(F.col("source_table") == "responses", F.col("source_ids")[0])).alias(
                "responses"
            ),
        )
        .collect()
    )
    made = [Use(**row.asDict()) for row in counted]
    return tuple(sorted(made, key=lambda item: (item.run_id, item.round, item.role, item.checkpoint_id)))
