"""`mart verify`: recompute ids, totals and digests of a run from what is stored, and say what differs."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.artifacts import Artifacts
from pipelines.errors import IntegrityError
from pipelines.generation import request_identity
from pipelines.history import History
from pipelines.lakehouse import Lakehouse
from pipelines.plan import ALL
from pipelines.step import GenerationStep
from pipelines.training_jobs import REWARD_ROLES, prove_checkpoint
from schemas.digests import digest, root_digest, seed_from, text_sha256
from schemas.manifests import SNAPSHOT_FILE, SnapshotManifest, reward_example_sha256, sft_example_sha256
from schemas.tables import BY_NAME

_NAMED = 3  # how many differing rows a finding names


@dataclass
class Findings:
    """What was checked, in words, and what differs, in words."""

    checked: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def check(self, what: str, wrong: Iterable[str]) -> None:
        """Note a check and what it found wrong."""
        found = list(wrong)
        self.differences += [f"{what}: {item}" for item in found]
        if not found:
            self.checked.append(f"{what}: holds")


def verify_run(lakehouse: Lakehouse, artifacts: Artifacts, run_id: str) -> Findings:
    """Check everything that a run published, its forks' ancestors and its checkpoints' closure included.

    Raises:
        ConfigError: there is no such run.
    """
    findings = Findings()
    history = History(lakehouse, run_id)
    steps = _done_steps(lakehouse, history)
    findings.check("run", _run_row(lakehouse, run_id))
    findings.check("keys", _repeated_keys(lakehouse))
    for item in steps:
        where = f"round {item['round']} {item['step']}"
        findings.check(f"{where}: published rows", _unchanged(lakehouse, item))
        if isinstance(ALL.get(item["step"]), GenerationStep):
            findings.check(f"{where}: requests", _requests(lakehouse, item))
    findings.check("verdicts", _totals(lakehouse, history))
    findings.check("texts", _texts(lakehouse, history))
    wanted = {item["counts"]["checkpoint_id"] for item in steps if item["step"].startswith("train_")}
    for checkpoint_id in sorted(wanted):
        findings.check(f"checkpoint {checkpoint_id[:12]}", _checkpoint(lakehouse, artifacts, checkpoint_id))
    return findings


def _done_steps(lakehouse: Lakehouse, history: History) -> list[dict[str, Any]]:
    rows = lakehouse.read("steps").where(history.mine()).where("state = 'done'").orderBy("ended_at").collect()
    return [
        {
            "run_id": row["run_id"],
            "round": row["round"],
            "step": row["step"],
            "writes": json.loads(row["writes"]),
            "counts": json.loads(row["counts"]),
        }
        for row in rows
    ]


def _run_row(lakehouse: Lakehouse, run_id: str) -> Iterator[str]:
    for row in lakehouse.read("runs").where(F.col("run_id") == run_id).collect():
        if digest(json.loads(row["config"])) != row["config_digest"]:
            yield "its configuration does not have the digest that it was begun with"


def _repeated_keys(lakehouse: Lakehouse) -> Iterator[str]:
    for name in (
        "requests",
        "adversarial_prompts",
        "responses",
        "scores",
        "selections",
        "training_examples",
        "checkpoints",
    ):
        key = BY_NAME[name].key
        repeated = lakehouse.read(name).groupBy(*key).count().where("count > 1").limit(_NAMED).collect()
        for row in repeated:
            yield f"{name} has {row['count']} rows with key {', '.join(str(row[part]) for part in key)}"


def _scope(lakehouse: Lakehouse, item: Mapping[str, Any], table: str, version: int | None) -> DataFrame:
    frame = lakehouse.read(table, version)
    if "checkpoint_id" in BY_NAME[table].key:
        return frame.where(F.col("checkpoint_id") == item["counts"]["checkpoint_id"])
    frame = frame.where((F.col("run_id") == item["run_id"]) & (F.col("round") == item["round"]))
    return frame.where(F.col("step") == item["step"]) if "step" in BY_NAME[table].names else frame


def _unchanged(lakehouse: Lakehouse, item: Mapping[str, Any]) -> Iterator[str]:
    """What a step published must still be there, row for row, as at the version it recorded."""
    for table, version in item["writes"].items():
        marks = []
        for at in (version, None):
            frame = _scope(lakehouse, item, table, at)
            # A sum of hashes is the same in any order; two hashes make a chance match out of the question.
            low, high = F.xxhash64(*frame.columns), F.xxhash64(F.lit(1), *frame.columns)
            totals = frame.agg(
                F.count("*").alias("rows"),
                F.sum(low.cast("decimal(38,0)")).alias("low"),
                F.sum(high.cast("decimal(38,0)")).alias("high"),
            )
            marks += totals.collect()
        then, now = marks
        if then["rows"] != now["rows"]:
            yield f"{table} had {then['rows']} rows at version {version} and has {now['rows']} now"
        elif then != now:
            key = list(BY_NAME[table].key)
            old = _scope(lakehouse, item, table, version)
            changed = _scope(lakehouse, item, table, None).exceptAll(old).select(*key).limit(_NAMED).collect()
            names = "; ".join(", ".join(str(row[part]) for part in key) for row in changed)
            yield f"{table} was changed since version {version}: {names}"
        counted = item["counts"].get("rows")
        if counted is not None and table not in ("checkpoints",) and now["rows"] != counted:
            yield f"{table} has {now['rows']} rows, the step counted {counted}"


def _requests(lakehouse: Lakehouse, item: Mapping[str, Any]) -> Iterator[str]:
    """Each request's id, seed and input digest recomputed; requests and outcomes one to one."""

    def wrong(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            bad = [
                (row["request_id"],)
                for row in batch.to_dict("records")
                if digest(request_identity(row)) != row["request_id"]
                or seed_from(row["request_id"]) != row["seed"]
                or digest([int(token) for token in row["input_ids"]]) != row["input_sha256"]
            ]
            yield pd.DataFrame(bad, columns=["request_id"])

    requests = _scope(lakehouse, item, "requests", None)
    for row in requests.mapInPandas(wrong, "request_id string").limit(_NAMED).collect():
        yield f"request {row['request_id']} does not have the id, seed or input digest that its content gives"
    step = ALL[item["step"]]
    outcomes = _scope(lakehouse, item, step.writes, None).select("request_id")
    asked = requests.select("request_id")
    for kind, frame in (
        ("without outcome", asked.exceptAll(outcomes)),
        ("without request", outcomes.exceptAll(asked)),
    ):
        if n := frame.count():
            yield f"{n} rows {kind}"


def _totals(lakehouse: Lakehouse, history: History) -> Iterator[str]:
    """Every usable answer has its scores and its selection, every prompt its screening."""
    published = {
        table: history.published(table, lakehouse.version(table))
        for table in ("responses", "scores", "selections", "adversarial_prompts", "prompt_screenings")
    }
    done = history.is_done
    rounds = [round for round in range(1, 10_000) if done(round, "attack")] if done(1, "attack") else []
    for round in rounds:
        at = F.col("round") == round
        answers = published["responses"].where(at & (F.col("step") == "respond") & (F.col("status") == "ok"))
        if done(round, "screen"):
            written = published["adversarial_prompts"].where(at & (F.col("step") == "attack")).count()
            screened = published["prompt_screenings"].where(at).count()
            if written != screened:
                yield f"round {round}: {written} prompts written, {screened} screened"
        if done(round, "score"):
            n, scored = answers.count(), published["scores"].where(at & (F.col("step") == "score")).count()
            if scored != 2 * n:
                yield f"round {round}: {n} answers, {scored} scores by two reward models"
        if done(round, "select"):
            n, selected = answers.count(), published["selections"].where(at).count()
            if n != selected:
                yield f"round {round}: {n} answers, {selected} selections"


def _texts(lakehouse: Lakehouse, history: History) -> Iterator[str]:
    @F.udf("boolean")
    def wrong(text: str | None, sha: str | None) -> bool:
        return text is not None and text_sha256(text) != sha

    prompts = history.published("adversarial_prompts", lakehouse.version("adversarial_prompts"))
    for row in prompts.where(wrong("text", "text_sha256")).select("request_id").limit(_NAMED).collect():
        yield f"adversarial prompt {row['request_id']} does not have the digest of its text"


def _checkpoint(lakehouse: Lakehouse, artifacts: Artifacts, checkpoint_id: str) -> Iterator[str]:
    """Recipe, training rows, snapshot and weights of a checkpoint, each against its digest."""
    row = lakehouse.read("checkpoints").where(F.col("checkpoint_id") == checkpoint_id).head()
    if row is None:
        yield "it is not registered"
        return
    recipe = json.loads(row["recipe"])
    if digest(recipe) != checkpoint_id:
        yield "its recipe does not give its id"
    yield from _training_rows(lakehouse, checkpoint_id, recipe)
    folder = artifacts.snapshot(checkpoint_id)
    try:
        snapshot = SnapshotManifest.model_validate_json((folder / SNAPSHOT_FILE).read_text())
        yield from (change for entry in snapshot.files if (change := entry.difference(folder)))
        if snapshot.root != recipe["training_root"]:
            yield f"{folder / SNAPSHOT_FILE} has root {snapshot.root}, the recipe says {recipe['training_root']}"
    except (OSError, ValueError) as error:
        yield f"its snapshot can't be read: {error}"
    try:
        manifest = prove_checkpoint(artifacts.root / row["path"])
    except IntegrityError as error:
        yield str(error)
        return
    said = {
        "weights_sha256": manifest.weights_sha256,
        "training_root": manifest.snapshot_root,
        "checkpoint_id": manifest.checkpoint_id,
    }
    for name, value in said.items():
        if row[name] != value:
            yield f"its table says {name} {row[name]}, its manifest says {value}"


def _training_rows(lakehouse: Lakehouse, checkpoint_id: str, recipe: Mapping[str, Any]) -> Iterator[str]:
    columns = ("position", "input", "output", "weight", "label", "rejected", "split", "example_sha256")
    rows = lakehouse.read("training_examples").where(F.col("checkpoint_id") == checkpoint_id).select(*columns)
    found: list[str] = []
    for position, row in enumerate(rows.orderBy("position").toLocalIterator()):
        if recipe["role"] in REWARD_ROLES:
            value = reward_example_sha256(
                row["input"], row["output"], row["label"], row["rejected"], row["split"]
            )
        else:
            value = sft_example_sha256(row["input"], row["output"], row["weight"], recipe["role"])
        if row["position"] != position:
            yield f"training row {position} is missing"
            return
        if value != row["example_sha256"]:
            yield f"training row {position} does not have the digest of its content"
        found.append(value)
    if root_digest(found) != recipe["training_root"]:
        yield f"its {len(found)} training rows do not give the root that its recipe names"
