"""`mart verify`: recompute ids, totals and digests of a run from what is stored, and say what differs."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import pandas as pd
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from pipelines.artifacts import Artifacts
from pipelines.config import GatesConfig
from pipelines.errors import ConfigError
from pipelines.gates.keeper import suites_of
from pipelines.gates.records import wrong_results
from pipelines.gates.suites import Suite
from pipelines.generation import request_identity
from pipelines.history import History, is_among, told_by
from pipelines.lakehouse import Lakehouse
from pipelines.plan import ALL
from pipelines.step import GenerationStep
from pipelines.verify_checkpoints import NAMED, wrong_checkpoints
from pipelines.verify_imports import changed_inputs, older_than, wrong_imports, wrong_text
from pipelines.verify_ledger import rewritten
from schemas.digests import digest, json_object, seed_from
from schemas.tables import BY_NAME

log = logging.getLogger(__name__)

# A published step: run_id, round, step, attempt, gates, reads and writes (table to version), counts.
Done = Mapping[str, Any]


@dataclass
class Findings:
    """What was checked, in words, and what differs, in words."""

    checked: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def check_each(self, what: str, parts: Iterable[tuple[str, list[str]]]) -> None:
        """Note a check that was made of several parts, each with a name."""
        for name, wrong in parts:
            self.check(f"{what} of {name}" if what != "checkpoint" else f"{what} {name}", wrong)

    def check(self, what: str, wrong: Iterable[str]) -> None:
        """Note a check and what it found wrong."""
        found = list(wrong)
        self.differences += [f"{what}: {item}" for item in found]
        if not found:
            self.checked.append(f"{what}: holds")


def verify_run(lakehouse: Lakehouse, artifacts: Artifacts, run_id: str) -> Findings:
    """Check everything that a run published, its forks' ancestors and its checkpoints' closure included, and all imports.

    Raises:
        ConfigError: there is no such run.
    """
    findings = Findings()
    history = History(lakehouse, run_id)
    steps = _done_steps(lakehouse, history)
    ancestry = [part.run_id for part in history.parts]
    runs = lakehouse.read("runs").where(F.col("run_id").isin(ancestry)).collect()
    findings.check("run", _run_rows(runs))
    findings.check("imports", wrong_imports(lakehouse))
    findings.check("inputs", changed_inputs(lakehouse, [item["reads"] for item in steps], ancestry))
    findings.check("keys", _repeated_keys(lakehouse))
    findings.check_each("published rows", _unchanged(lakehouse, steps))
    asked = [item for item in steps if isinstance(ALL.get(item["step"]), GenerationStep)]
    findings.check_each("requests", _requests(lakehouse, history, asked))
    findings.check("verdicts", _totals(lakehouse, history))
    findings.check("texts", _texts(lakehouse, history))
    findings.check("gates", wrong_results(_results(lakehouse, history), _suites(runs), steps, _begun(runs)))
    trained = [item["counts"] for item in steps if item["step"].startswith("train_")]
    wanted = {counts["checkpoint_id"] for counts in trained if "sat_out" not in counts}
    findings.check("ledger", rewritten(lakehouse, _ledger(history, ancestry, wanted)))
    findings.check_each("checkpoint", wrong_checkpoints(lakehouse, artifacts, wanted))
    return findings


def _done_steps(lakehouse: Lakehouse, history: History) -> list[Done]:
    rows = lakehouse.read("steps").where(history.mine()).where("state = 'done'").orderBy("ended_at").collect()
    return [
        {
            "run_id": row["run_id"],
            "round": row["round"],
            "step": row["step"],
            "attempt": row["attempt"],
            "gates": ALL[row["step"]].gates if row["step"] in ALL else (),
            **told_by(row),
        }
        for row in rows
    ]


def _ledger(history: History, runs: Sequence[str], checkpoints: Iterable[str]) -> dict[str, Column]:
    """The append-only tables by which everything else is proved, each with the condition on the rows that this run rests on."""
    of_runs = F.col("run_id").isin(list(runs))
    return {
        **dict.fromkeys(("steps", "quality_results", "gate_overrides"), history.mine()),
        "scorers": of_runs,
        "checkpoints": of_runs | F.col("checkpoint_id").isin(sorted(checkpoints)),
        "imports": F.lit(True),
    }


def _where(item: Done) -> str:
    return f"round {item['round']} {item['step']}"


def _run_rows(runs: Sequence[Row]) -> Iterator[str]:
    for row in runs:
        config = json_object(row["config"])
        if config is None or digest(config) != row["config_digest"]:
            yield f"the configuration of {row['run_id']} does not have the digest that it was begun with"


def _begun(runs: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The digests by gate of the suites that each run began with, where it kept them; none where that is not what they are."""
    return {row["run_id"]: json_object(row["gate_suites"]) or {} for row in runs if row["gate_suites"]}


def _suites(runs: Sequence[Row]) -> dict[str, Mapping[str, Suite]]:
    """The suites that each run's configuration names, as they are now; a file that is gone leaves its run out."""
    found: dict[str, Mapping[str, Suite]] = {}
    for row in runs:
        try:
            found[row["run_id"]] = suites_of(
                GatesConfig.model_validate(json.loads(row["config"])["gates"]), asked=False
            )
        except (ConfigError, KeyError, ValueError) as error:
            log.warning("the gates of run %s can't be recomputed: %s", row["run_id"], error)
    return found


def _results(lakehouse: Lakehouse, history: History) -> list[dict[str, Any]]:
    key = ("run_id", "round", "gate", "check_name")
    overrides = lakehouse.read("gate_overrides").select(*key, F.lit(True).alias("let_pass")).distinct()
    results = lakehouse.read("quality_results").where(history.mine())
    return [row.asDict() for row in results.join(overrides, on=list(key), how="left").collect()]


def _repeated_keys(lakehouse: Lakehouse) -> Iterator[str]:
    keys = [
        lakehouse.read(name).select(
            F.lit(name).alias("table"), F.concat_ws(", ", *BY_NAME[name].key).alias("key")
        )
        for name in (
            "requests",
            "adversarial_prompts",
            "responses",
            "scores",
            "selections",
            "training_examples",
            "checkpoints",
        )
    ]
    repeated = reduce(DataFrame.unionAll, keys).groupBy("table", "key").count().where("count > 1")
    for row in repeated.limit(NAMED).collect():
        yield f"{row['table']} has {row['count']} rows with key {row['key']}"


def _scope(item: Done, table: str) -> Column:
    """The condition that a row of a table is of those that a step published."""
    if "checkpoint_id" in BY_NAME[table].key:
        return F.col("checkpoint_id") == item["counts"]["checkpoint_id"]
    mine = (F.col("run_id") == item["run_id"]) & (F.col("round") == item["round"])
    if "step" not in BY_NAME[table].names:
        return mine
    # Metrics from before the column was there have none, and are the report's.
    return mine & (F.coalesce("step", F.lit("report")) == item["step"])


def _marks(frame: DataFrame, table: str, items: Sequence[Done]) -> DataFrame:
    """Rows and two sums of hashes for each step that wrote to a table; the same for any order of the rows."""
    which = F.lit(None).cast("int")
    for number, item in enumerate(items):
        which = F.when(_scope(item, table), number).otherwise(which)
    # Two hashes make a chance match out of the question. A null leaves a hash as it is and an array's items count one by one:
    # what tells a null's place, or where an array ends, is hashed besides.
    shape: list[Column] = [
        F.size(column.name) if column.type.startswith("ARRAY") else F.isnull(column.name)
        for column in BY_NAME[table].columns
        if column.nullable or column.type.startswith("ARRAY")
    ]
    values = [*map(F.col, frame.columns), *shape]
    low, high = F.xxhash64(*values), F.xxhash64(F.lit(1), *values)
    marked = frame.select(which.alias("item"), low.alias("low"), high.alias("high")).where("item IS NOT NULL")
    return marked.groupBy("item").agg(
        F.count("*").alias("rows"),
        F.sum(F.col("low").cast("decimal(38,0)")).alias("low"),
        F.sum(F.col("high").cast("decimal(38,0)")).alias("high"),
    )


def _unchanged(lakehouse: Lakehouse, steps: Sequence[Done]) -> Iterator[tuple[str, list[str]]]:
    """What a step published must still be there, row for row, as at the version it recorded."""
    tables = sorted({table for item in steps for table in item["writes"]})
    # Each is a handful of short driver-side jobs that mostly wait for one another.
    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="verify") as pool:
        for found in pool.map(lambda table: _unchanged_in(lakehouse, table, steps), tables):
            yield from found


def _unchanged_in(lakehouse: Lakehouse, table: str, steps: Sequence[Done]) -> list[tuple[str, list[str]]]:
    items = [item for item in steps if table in item["writes"]]
    now = {row["item"]: row for row in _marks(lakehouse.read(table), table, items).collect()}
    # Asked after the rows were read, so that no commit before that is missed.
    newest, changed = lakehouse.changes(table)
    by_version: dict[int, list[int]] = {}
    # What is as old as the last change, or younger, is there as it was. Whether rows came to it later, its count tells, the
    # keys, or what is recomputed of a checkpoint.
    then: dict[int, Row | None] = {}
    for number, item in enumerate(items):
        if (version := item["writes"][table]) >= changed:
            then[number] = now.get(number)
        else:
            by_version.setdefault(version, []).append(number)
    frames = [
        _marks(lakehouse.read(table, version), table, items).where(F.col("item").isin(numbers))
        for version, numbers in by_version.items()
    ]
    if frames:
        then |= {row["item"]: row for row in reduce(DataFrame.unionAll, frames).collect()}
    return [
        (_where(item), list(_changes(lakehouse, table, item, newest, then.get(number), now.get(number))))
        for number, item in enumerate(items)
    ]


def _changes(
    lakehouse: Lakehouse, table: str, item: Done, newest: int, then: Row | None, now: Row | None
) -> Iterator[str]:
    version = item["writes"][table]
    if version > newest:
        yield older_than(table, newest, version)
        return
    were, are = (then["rows"] if then else 0), (now["rows"] if now else 0)
    if were != are:
        yield f"{table} had {were} rows at version {version} and has {are} now"
    elif then != now:
        key = list(BY_NAME[table].key)
        mine = _scope(item, table)
        old = lakehouse.read(table, version).where(mine)
        changed = lakehouse.read(table).where(mine).exceptAll(old).select(*key).limit(NAMED).collect()
        names = "; ".join(", ".join(str(row[part]) for part in key) for row in changed)
        yield f"{table} was changed since version {version}: {names}"
    counted = item["counts"].get("rows")
    if counted is not None and not item["step"].startswith("train_") and are != counted:
        yield f"{table} has {are} rows, the step counted {counted}"


def _wrong_requests(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Requests whose id, seed or input digest is not what their content gives."""
    for batch in batches:
        bad = [
            (row["round"], row["step"], row["request_id"])
            for row in batch.to_dict("records")
            if digest(request_identity(row)) != row["request_id"]
            or seed_from(row["request_id"]) != row["seed"]
            or digest([int(token) for token in row["input_ids"]]) != row["input_sha256"]
        ]
        yield pd.DataFrame(bad, columns=["round", "step", "request_id"])


def _requests(
    lakehouse: Lakehouse, history: History, steps: Sequence[Done]
) -> Iterator[tuple[str, list[str]]]:
    """Each request's id, seed and input digest recomputed; requests and outcomes one to one."""
    found: dict[tuple[int, str], list[str]] = {(item["round"], item["step"]): [] for item in steps}
    names = sorted({item["step"] for item in steps})
    mine = history.mine() & is_among(found)
    requests = lakehouse.read("requests").where(mine)
    wrong = requests.mapInPandas(_wrong_requests, "round int, step string, request_id string")
    for row in wrong.limit(NAMED).collect():
        found[row["round"], row["step"]].append(
            f"request {row['request_id']} does not have the id, seed or input digest that its content gives"
        )
    columns = ("round", "step", "request_id")
    sides = [requests.select(*columns, F.lit(1).alias("asked"), F.lit(0).alias("answered"))]
    for table in sorted({ALL[name].writes for name in names}):
        outcomes = lakehouse.read(table).where(mine)
        sides.append(outcomes.select(*columns, F.lit(0).alias("asked"), F.lit(1).alias("answered")))
    single = (
        reduce(DataFrame.unionAll, sides)
        .groupBy(*columns)
        .agg(F.sum("asked").alias("asked"), F.sum("answered").alias("answered"))
        .where("asked != answered")
    )
    unmatched = single.groupBy("round", "step").agg(
        F.count_if(F.col("asked") > F.col("answered")).alias("unanswered"),
        F.count_if(F.col("asked") < F.col("answered")).alias("unasked"),
    )
    for row in unmatched.collect():
        for kind, n in (("without outcome", row["unanswered"]), ("without request", row["unasked"])):
            if n:
                found.setdefault((row["round"], row["step"]), []).append(f"{n} rows {kind}")
    for (round, step), wrong_ones in found.items():
        yield f"round {round} {step}", wrong_ones


def _totals(lakehouse: Lakehouse, history: History) -> Iterator[str]:
    """Every usable answer has its scores and its selection, every prompt its screening."""
    wanted = {
        "adversarial_prompts": F.col("step") == "attack",
        "prompt_screenings": F.lit(True),
        "responses": (F.col("step") == "respond") & (F.col("status") == "ok"),
        "scores": F.col("step") == "score",
        "selections": F.lit(True),
    }
    frames = [
        history.published(table, lakehouse.version(table))
        .where(condition)
        .select(F.lit(table).alias("table"), "round")
        for table, condition in wanted.items()
    ]
    counted = reduce(DataFrame.unionAll, frames).groupBy("table", "round").count().collect()
    n = {(row["table"], row["round"]): row["count"] for row in counted}
    for round in sorted({round for _, round in n}):
        answers, written = n.get(("responses", round), 0), n.get(("adversarial_prompts", round), 0)
        for step, table, expected, what in (
            ("screen", "prompt_screenings", written, f"{written} prompts written"),
            ("score", "scores", 2 * answers, f"{answers} answers by two reward models"),
            ("select", "selections", answers, f"{answers} answers"),
        ):
            if history.is_done(round, step) and (have := n.get((table, round), 0)) != expected:
                yield f"round {round}: {what}, {have} rows in {table}"


def _texts(lakehouse: Lakehouse, history: History) -> Iterator[str]:
    prompts = history.published("adversarial_prompts", lakehouse.version("adversarial_prompts"))
    for row in prompts.where(wrong_text("text")).select("request_id").limit(NAMED).collect():
        yield f"adversarial prompt {row['request_id']} does not have the digest of its text"
