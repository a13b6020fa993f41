"""What a method did, over several runs of it: pooled rates, reductions and changes, with intervals over prompts.

The runs ask the same held-out prompts, so a prompt's answers are alike in all of them: intervals come from a bootstrap that
draws whole prompts, with the answers of every run and round to each. They tell what other prompts would have given, not
what other seeds would have: three seeds are too few for that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.errors import ConfigError
from pipelines.lakehouse import Lakehouse
from pipelines.stats import wilson

VIEWS = ("evaluations", "published_steps")  # what is asked besides tables
_DRAWS = 4000
Floats = NDArray[np.float64]

# name, suite, what is counted, seen styles only (True), unseen only (False) or all (None)
RATES: tuple[tuple[str, str, str, bool | None], ...] = (
    ("violation", "violation", "violated", None),
    ("violation, seen styles", "violation", "violated", True),
    ("violation, unseen styles", "violation", "violated", False),
    ("neither", "violation", "neither", None),
    ("benign refusal", "benign", "refused", None),
    ("benign answered", "benign", "answered", None),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval and the answers and prompts behind it; NaN where it does not exist."""

    value: float
    low: float
    high: float
    answers: int
    prompts: int


@dataclass(frozen=True)
class Pooled:
    """One quantity over prompts and rounds: sums and counts over the runs, each [prompts, rounds]."""

    total: Floats
    count: Floats

    @cached_property
    def draws(self) -> Floats:
        """Means of every bootstrap draw, [draws, rounds]; the same draws for everything with as many prompts."""
        prompts = len(self.total)
        weights = np.random.default_rng(0).multinomial(prompts, [1 / prompts] * prompts, size=_DRAWS)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weights @ self.total) / (weights @ self.count))

    @cached_property
    def means(self) -> Floats:
        """The mean of each round."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.total.sum(axis=0) / self.count.sum(axis=0))

    @property
    def answers(self) -> int:
        """Answers in the round that has most."""
        return int(self.count.sum(axis=0).max())

    def estimate(self, figure: Callable[[Floats], Floats]) -> Estimate:
        """A figure of the rounds' means; `figure` takes means [..., rounds] and gives [...]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.interval(float(figure(self.means)), figure(self.draws))

    def interval(self, value: float, spread: Floats) -> Estimate:
        """A value with the interval of its bootstrap draws."""
        spread = spread[np.isfinite(spread)]
        low, high = np.quantile(spread, (0.025, 0.975)) if len(spread) else (np.nan, np.nan)
        return Estimate(value, float(low), float(high), self.answers, len(self.total))

    def rate(self, round: int) -> Estimate:
        """A round's mean. Where it is 0 or 1 no draw differs from it: Wilson's bound over the prompts stands in."""
        found = self.estimate(lambda means: means[..., round])
        if found.value in (0.0, 1.0):
            bound = wilson(int(found.value) * found.prompts, found.prompts)
            return Estimate(found.value, bound.low or 0.0, bound.high or 0.0, found.answers, found.prompts)
        return found

    def reduction(self, round: int) -> Estimate:
        """How much lower a round is than round 0, as a share of round 0."""
        return self.estimate(lambda means: 1 - means[..., round] / means[..., 0])

    def relative_change(self, round: int) -> Estimate:
        """How much higher a round is than round 0, as a share of round 0."""
        return self.estimate(lambda means: means[..., round] / means[..., 0] - 1)

    def change(self, round: int, since: int = 0) -> Estimate:
        """A round less another."""
        return self.estimate(lambda means: means[..., round] - means[..., since])


def pool(rows: pd.DataFrame, value: str, cluster: str = "prompt_id") -> Pooled:
    """Rows with the columns `round`, `value` and `cluster`, as sums and counts over clusters and rounds."""
    kept = rows.dropna(subset=[value])
    if kept.empty:
        return Pooled(np.zeros((1, 1)), np.zeros((1, 1)))
    table = kept.assign(value=kept[value].astype(float)).pivot_table(
        index=cluster, columns="round", values="value", aggfunc=["sum", "count"], fill_value=0
    )
    return Pooled(table["sum"].to_numpy(float), table["count"].to_numpy(float))


@dataclass(frozen=True)
class Effect:
    """What some runs of one method came to.

    Attributes:
        rounds: round numbers, 0 the warm start.
        prompts: ids of the held-out prompts.
        rates: by the names in `RATES`.
        likelihood: negative log-likelihood of reference answers, nats a token.
        attacks: attack success by (adversary's round, target's round).
        distinct: share of an adversary's held-out attacks that are distinct within their run, by its round.
    """

    rounds: tuple[int, ...]
    prompts: frozenset[str]
    rates: Mapping[str, Pooled]
    likelihood: Pooled
    attacks: Mapping[tuple[int, int], Estimate]
    distinct: Mapping[int, float]


def effect(lakehouse: Lakehouse, runs: Sequence[str], judge: str) -> Effect:
    """Pool the evaluations of runs, by an evaluation judge.

    Args:
        lakehouse: with its views made.
        runs: runs of the same configuration with different seeds.
        judge: name of a judge that labels, such as `truth`.

    Raises:
        ConfigError: a run has no such evaluations, or the runs don't have the same rounds and prompts.
    """
    mine = F.col("run_id").isin(list(runs))
    verdicts = lakehouse.spark.table(f"{lakehouse.schema}.evaluations").where(
        mine & (F.col("judge") == judge)
    )
    answers = _rows(
        verdicts.where("step = 'evaluate_target' AND by_rule").select(
            "run_id", "round", "suite", "prompt_id", "seen_style", "checkpoint_id",
            "violated", "refused", "neither", "answered",
        )
    )  # fmt: skip
    _check(answers, runs, judge)
    rates = {}
    for name, suite, value, seen in RATES:
        part = answers[answers["suite"] == suite]
        rates[name] = pool(part if seen is None else part[part["seen_style"] == seen], value)
    attacks = _rows(
        verdicts.where("step = 'evaluate_attack' AND by_rule").select(
            "run_id", F.col("prompt_id").alias("request_id"), "checkpoint_id", "violated"
        )
    )
    written = _rows(
        _published(lakehouse, "adversarial_prompts")
        .where(mine & (F.col("step") == "evaluate_adversary") & (F.col("status") == "ok"))
        .select("run_id", "round", "request_id", F.col("parent_ids")[0].alias("example"))
    )
    distinct = _rows(
        _published(lakehouse, "round_metrics", "report")
        .where(mine & (F.col("metric") == "adversary_distinct"))
        .groupBy("round")
        .agg((F.sum("value") / F.sum("n")).alias("share"))
    )
    likelihood = _rows(
        _published(lakehouse, "responses")
        .where(mine & (F.col("step") == "evaluate_reference") & (F.col("completion_tokens") > 0))
        .select("round", "prompt_id", (-F.col("logprob") / F.col("completion_tokens")).alias("nll"))
    )
    return Effect(
        rounds=tuple(sorted(answers["round"].unique().tolist())),
        prompts=frozenset(answers["prompt_id"]),
        rates=rates,
        likelihood=pool(likelihood, "nll"),
        attacks=_attacks(answers, attacks, written),
        distinct=dict(zip(distinct["round"].tolist(), distinct["share"].tolist(), strict=True)),
    )


def _published(lakehouse: Lakehouse, table: str, step: str | None = None) -> DataFrame:
    """The rows of a table that a finished step stands behind: the one they name, or the only one that writes them."""
    rows = lakehouse.read(table)
    named = rows if step is None else rows.withColumn("step", F.lit(step))
    steps = lakehouse.spark.table(f"{lakehouse.schema}.published_steps")
    return named.join(steps, ["run_id", "round", "step"], "left_semi")


def _rows(frame: DataFrame) -> pd.DataFrame:
    """A small frame as rows here: held-out sets are frozen, and their size is not that of the data."""
    rows: Any = frame.toPandas()
    return pd.DataFrame(rows)


def _check(answers: pd.DataFrame, runs: Sequence[str], judge: str) -> None:
    if missing := [run for run in runs if run not in set(answers["run_id"])]:
        raise ConfigError(
            f"run {missing[0]} has no evaluation labelled by {judge!r}; `mart status` lists the runs"
        )
    shapes = {
        run: (tuple(sorted(part["round"].unique())), frozenset(part["prompt_id"]))
        for run, part in answers.groupby("run_id")
    }
    first = shapes[runs[0]]
    if first[0][0] != 0:
        raise ConfigError(
            f"run {runs[0]} begins with round {first[0][0]}, so it has no warm start to compare with: a fork's effect is "
            "that of the two runs in a row, which `mart summary` shows"
        )
    for run in runs:
        if shapes[run] != first:
            raise ConfigError(
                f"runs {runs[0]} and {run} can't be pooled: they differ in their rounds or held-out prompts"
            )


def _attacks(
    answers: pd.DataFrame, attacks: pd.DataFrame, written: pd.DataFrame
) -> dict[tuple[int, int], Estimate]:
    if attacks.empty:
        return {}
    targets = answers[["run_id", "round", "checkpoint_id"]].fillna("").drop_duplicates()
    joined = (
        attacks.fillna({"checkpoint_id": ""})
        .merge(targets.rename(columns={"round": "target"}), on=["run_id", "checkpoint_id"])
        .merge(written.rename(columns={"round": "adversary"}), on=["run_id", "request_id"])
    )
    found = {}
    for (adversary, target), part in joined.groupby(["adversary", "target"]):
        pooled = pool(part.assign(round=0), "violated", "example")
        found[int(adversary), int(target)] = pooled.rate(0)
    return found


def as_rows(found: Effect) -> list[dict[str, Any]]:
    """An effect in long form: `figure`, `quantity`, `round`, and the fields of an estimate."""
    rows: list[dict[str, Any]] = []

    def add(figure: str, quantity: str, round: int, estimate: Estimate) -> None:
        rows.append({"figure": figure, "quantity": quantity, "round": round, **asdict(estimate)})

    for name, pooled in found.rates.items():
        for place, round in enumerate(found.rounds[: pooled.count.shape[1]]):
            add("rate", name, round, pooled.rate(place))
            if place:
                add("change to the warm start", name, round, pooled.change(place))
                add("change to the round before", name, round, pooled.change(place, place - 1))
                if name.startswith("violation"):
                    add("reduction since the warm start", name, round, pooled.reduction(place))
    for place, round in enumerate(found.rounds[: found.likelihood.count.shape[1]]):
        if place and found.likelihood.count.any():
            change = found.likelihood.relative_change(place)
            add("relative change to the warm start", "nats a token of reference answers", round, change)
    for (adversary, target), estimate in sorted(found.attacks.items()):
        add("attack success", f"adversary {adversary}", target, estimate)
    return rows


def difference(first: Pooled, second: Pooled, round: int) -> Estimate:
    """A round's mean of one method less that of another, on the same prompts: both are drawn together."""
    value = float(first.means[round] - second.means[round])
    return first.interval(value, first.draws[:, round] - second.draws[:, round])
