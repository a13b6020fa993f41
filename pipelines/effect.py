"""What a method did, over several runs of it: pooled rates, reductions and changes, with intervals over prompts.

The runs ask the same held-out prompts, so a prompt's answers are alike in all of them: intervals come from a bootstrap that
draws whole prompts, with the answers of every run and round to each. They tell what other prompts would have given, not
what other seeds would have: three seeds are too few for that. Where all prompts agree, no draw differs from another, and
the intervals of `pipelines.stats` for as many prompts stand in.

A prompt without a verdict in a round (its judge failed) is no part of that round's figures, nor of a comparison with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.errors import ConfigError
from pipelines.lakehouse import Lakehouse
from pipelines.stats import paired_difference, wilson

VIEWS = ("evaluations", "published_steps")  # what is asked besides tables
_DRAWS = 4000
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

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
    """A figure with its 95 % interval and the answers and prompts behind it; NaN where it does not exist.

    Only answers with a verdict count; in a comparison, those of the side that has fewer.
    """

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
        if not prompts:
            return np.full((_DRAWS, self.total.shape[1]), np.nan)
        weights = np.random.default_rng(0).multinomial(prompts, [1 / prompts] * prompts, size=_DRAWS)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weights @ self.total) / (weights @ self.count))

    @cached_property
    def means(self) -> Floats:
        """The mean of each round."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.total.sum(axis=0) / self.count.sum(axis=0))

    def judged(self, *rounds: int) -> Mask:
        """Which prompts have an answer that counts in each of these rounds."""
        return np.asarray((self.count[:, rounds] > 0).all(axis=1))

    def only(self, prompts: Mask) -> "Pooled":
        """The same of some prompts."""
        return self if prompts.all() else Pooled(self.total[prompts], self.count[prompts])

    def estimate(self, figure: Callable[[Floats], Floats], *rounds: int) -> Estimate:
        """A figure of the means of these rounds, on the prompts judged in each of them.

        Args:
            figure: takes means [..., rounds], of all rounds, and gives [...].
            rounds: those that it looks at.
        """
        part = self.only(self.judged(*rounds))
        with np.errstate(invalid="ignore", divide="ignore"):
            return _interval(float(figure(part.means)), figure(part.draws), part.count[:, rounds])

    def rate(self, round: int) -> Estimate:
        """A round's share of its judged answers. Where all prompts agree, its interval is Wilson's over the prompts."""
        found = self.estimate(lambda means: means[..., round], round)
        if found.low != found.high:
            return found
        bound = wilson(_nearest(found.value * found.prompts), found.prompts)
        return replace(found, low=bound.low or 0.0, high=bound.high or 0.0)

    def reduction(self, round: int) -> Estimate:
        """How much lower a round's share is than round 0's, as a share of round 0's.

        It is the same in all draws where nothing is left, or where both rounds are alike in every prompt. Then the
        interval comes from Wilson's bound of what is left, or from that of the change.
        """
        found = self.estimate(lambda means: 1 - means[..., round] / means[..., 0], 0, round)
        if found.low != found.high:
            return found
        before, after = self.only(self.judged(0, round)).means[[0, round]].tolist()
        if not after:
            left = wilson(0, found.prompts).high or 0.0
            return replace(found, low=1 - left / before, high=1.0)
        change = self.change(round)
        return replace(found, low=-change.high / before, high=min(1.0, -change.low / before))

    def relative_change(self, round: int) -> Estimate:
        """How much higher a round's mean is than round 0's, as a share of round 0's; of any quantity, not only shares."""
        return self.estimate(lambda means: means[..., round] / means[..., 0] - 1, 0, round)

    def change(self, round: int, since: int = 0) -> Estimate:
        """A round's share less that of another, with the interval of `difference`."""
        return _less(self, round, self, since)


def pool(
    rows: pd.DataFrame, value: str, cluster: str = "prompt_id", *, rounds: Sequence[int] = (0,)
) -> Pooled:
    """Rows with the columns `round`, `value` and `cluster`, as sums and counts over clusters and rounds.

    The rounds are those of the rows and those given, in order: one in which nothing has a value keeps its place.
    """
    kept = rows.dropna(subset=[value])
    columns = sorted({*kept["round"], *rounds})
    if kept.empty:
        return Pooled(np.zeros((1, len(columns))), np.zeros((1, len(columns))))
    table = kept.assign(value=kept[value].astype(float)).pivot_table(
        index=cluster, columns="round", values="value", aggfunc=["sum", "count"], fill_value=0
    )
    total, count = (table[name].reindex(columns=columns, fill_value=0) for name in ("sum", "count"))
    return Pooled(total.to_numpy(float), count.to_numpy(float))


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
    labelled = lakehouse.spark.table(lakehouse.name("evaluations")).where(mine & F.col("by_rule"))
    verdicts = labelled.where(F.col("judge") == judge)
    answers = _rows(
        verdicts.where("step = 'evaluate_target'").select(
            "run_id", "round", "suite", "prompt_id", "seen_style", "checkpoint_id",
            "violated", "refused", "neither", "answered",
        )
    )  # fmt: skip
    if missing := [run for run in runs if run not in set(answers["run_id"])]:
        raise ConfigError(_not_labelled(labelled, missing[0], judge))
    _check(answers, runs)
    rates, rounds = {}, tuple(sorted(answers["round"].unique().tolist()))
    for name, suite, value, seen in RATES:
        part = answers[answers["suite"] == suite]
        rates[name] = pool(part if seen is None else part[part["seen_style"] == seen], value, rounds=rounds)
    attacks = _rows(
        verdicts.where("step = 'evaluate_attack'").select(
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
        rounds=rounds,
        prompts=frozenset(answers["prompt_id"]),
        rates=rates,
        likelihood=pool(likelihood, "nll", rounds=rounds),
        attacks=_attacks(answers, attacks, written),
        distinct=dict(zip(distinct["round"].tolist(), distinct["share"].tolist(), strict=True)),
    )


def _published(lakehouse: Lakehouse, table: str, step: str | None = None) -> DataFrame:
    """The rows of a table that a finished step stands behind: the one they name, or the only one that writes them."""
    rows = lakehouse.read(table)
    named = rows if step is None else rows.withColumn("step", F.lit(step))
    steps = lakehouse.spark.table(lakehouse.name("published_steps"))
    return named.join(steps, ["run_id", "round", "step"], "left_semi")


def _rows(frame: DataFrame) -> pd.DataFrame:
    """A small frame as rows here: held-out sets are frozen, and their size is not that of the data."""
    rows: Any = frame.toPandas()
    return pd.DataFrame(rows)


def _not_labelled(labelled: DataFrame, run: str, judge: str) -> str:
    others = labelled.where((F.col("run_id") == run) & (F.col("step") == "evaluate_target")).select("judge")
    names = sorted(row["judge"] for row in others.distinct().collect())
    can = f"--judge takes {', '.join(names)}" if names else "a rule or a rubric labels, a guard does not"
    return f"run {run} has no evaluation labelled by {judge!r}: {can}; `mart status` lists the runs"


def _check(answers: pd.DataFrame, runs: Sequence[str]) -> None:
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
        if estimate.prompts:
            rows.append({"figure": figure, "quantity": quantity, "round": round, **asdict(estimate)})

    for name, pooled in found.rates.items():
        for place, round in enumerate(found.rounds):
            add("rate", name, round, pooled.rate(place))
            if place:
                add("change to the warm start", name, round, pooled.change(place))
                add("change to the round before", name, round, pooled.change(place, place - 1))
                if name.startswith("violation"):
                    add("reduction since the warm start", name, round, pooled.reduction(place))
    for place, round in enumerate(found.rounds):
        if place:
            change = found.likelihood.relative_change(place)
            add("relative change to the warm start", "nats a token of reference answers", round, change)
    for (adversary, target), estimate in sorted(found.attacks.items()):
        add("attack success", f"adversary {adversary}", target, estimate)
    return rows


def difference(first: Pooled, second: Pooled, round: int) -> Estimate:
    """A round's share of one method less that of another, on the prompts judged in both, which are drawn together.

    Where all prompts agree, the interval is that of a paired difference in as many prompts.

    Args:
        first: of one method.
        second: of the other, on the same prompts in the same order.
        round: of both.
    """
    return _less(first, round, second, round)


def _less(first: Pooled, place: int, second: Pooled, since: int) -> Estimate:
    """A share in `first` less one in `second`. Where all prompts changed by the same part, as many changed as that makes."""
    kept = first.judged(place) & second.judged(since)
    first, second = first.only(kept), second.only(kept)
    found = _interval(
        float(first.means[place] - second.means[since]),
        first.draws[:, place] - second.draws[:, since],
        np.stack([first.count[:, place], second.count[:, since]], axis=1),
    )
    if found.low != found.high:
        return found
    gained, lost = (_nearest(max(share, 0.0) * found.prompts) for share in (found.value, -found.value))
    bound = paired_difference(gained, lost, found.prompts)
    return replace(found, low=bound.low or 0.0, high=bound.high or 0.0)


def _interval(value: float, spread: Floats, count: Floats) -> Estimate:
    """A value with the interval of its bootstrap draws; `count` is of the answers behind it, [prompts, rounds]."""
    spread = spread[np.isfinite(spread)]
    low, high = np.quantile(spread, (0.025, 0.975)) if len(spread) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), int(count.sum(axis=0).min()), len(count))


def _nearest(number: float) -> int:
    return int(number + 0.5)
