"""The summary that ends a run: its figures round by round, each rate with its n and interval."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyspark.sql import Column, Row
from pyspark.sql import functions as F
from tabulate import tabulate

from pipelines.history import History
from pipelines.lakehouse import Lakehouse
from pipelines.plan import ALL

_RATES = (
    ("violation, {judge}", "violation_rate", "all"),
    ("  seen styles, {judge}", "violation_rate", "seen_style=true"),
    ("  unseen styles, {judge}", "violation_rate", "seen_style=false"),
    ("benign refusal, {judge}", "benign_refusal_rate", "all"),
    ("neither, {judge}", "neither_rate", "all"),
    ("benign answered, {judge}", "benign_on_topic_rate", "all"),
    ("attack success in the round, {judge}", "attack_success_rate", "all"),
    ("adversary against warm start, {judge}", "adversary_success_rate", "target=warm_start"),
    ("adversary against target, {judge}", "adversary_success_rate", "target=current"),
    ("agreement with held-out labels, {judge}", "reward_model_agreement", "all"),
)
_CHANGES = (
    ("violation, {judge}", "violation_change", "all"),
    ("  seen styles, {judge}", "violation_change", "seen_style=true"),
    ("  unseen styles, {judge}", "violation_change", "seen_style=false"),
    ("benign refusal, {judge}", "benign_refusal_change", "all"),
    ("benign answered, {judge}", "benign_on_topic_change", "all"),
)
_MEANS = (
    ("reference answers, nats a token", "reference_nll", "all"),
    ("  change to the warm start, paired", "reference_nll_change", "all"),
)
_COUNTS = (
    ("prompts written", "prompts_written", "all"),
    ("distinct attacks", "distinct_attacks", "all"),
    ("passed the screen", "prompts_screened", "reason=passed"),
    ("answers kept", "responses_selected", "reason=passed"),
    ("answers that count as attacks", "responses_selected", "reason=below_theta_s_adv"),
)


def summary(lakehouse: Lakehouse, run_id: str) -> str:
    """The tables of figures as text."""
    history = History(lakehouse, run_id)
    mine = history.mine()  # a fork begins with the rounds of what it was forked from
    rows = [
        row
        for row in lakehouse.read("round_metrics").where(mine).collect()
        if history.is_done(row["round"], row["step"] or "report")
    ]
    parts = [
        f"Run {run_id}. Rates in %, with 95 % intervals; violation and benign sets are the same prompts in every round.",
        *figures(rows),
        "\n".join(f"round {round} {step}: {reason}" for round, step, reason in history.sat_out()),
        _times(lakehouse, mine),
    ]
    return "\n\n".join(part for part in parts if part)


def figures(rows: Sequence[Mapping[str, Any] | Row]) -> list[str]:
    """Rows of `round_metrics` as tables with a column a round: rates, changes, means and counts.

    Where the n of a line is the same in all rounds it has a column of its own, otherwise it stands with each figure.
    """
    metrics = {(row["metric"], row["judge"], row["slice"], row["round"]): row for row in rows}
    rounds = sorted({row["round"] for row in rows})
    judges = sorted(
        {row["judge"] for row in rows} - {"none"}, key=lambda name: (name in ("safety", "helpfulness"), name)
    )
    return [
        _table("rate", _RATES, judges, rounds, metrics, _rate_cell),
        _table("change to the warm start, paired, points", _CHANGES, judges, rounds, metrics, _change_cell),
        _table("mean", _MEANS, ["none"], rounds, metrics, _mean_cell),
        _table("counts", _COUNTS, ["none"], rounds, metrics, _count_cell),
    ]


def _table(
    title: str,
    wanted: Sequence[tuple[str, str, str]],
    judges: list[str],
    rounds: list[int],
    metrics: Mapping[tuple[str, str, str, int], Any],
    cell: Callable[[Any], str],
) -> str:
    lines, has_n = [], cell is not _count_cell
    for name, metric, slice in wanted:
        for judge in judges:
            found = [metrics.get((metric, judge, slice, round)) for round in rounds]
            if not any(found):
                continue
            sizes = {row["n"] for row in found if row is not None}
            n = str(max(sizes)) if has_n and len(sizes) == 1 else ""
            cells = [
                f"{cell(row)} of {row['n']}" if has_n and not n and row is not None else cell(row)
                for row in found
            ]
            lines.append([name.format(judge=judge), n, *cells])
    head = [
        title,
        "n" if has_n else "",
        *["warm start" if r == 0 else f"round {r}" for r in rounds],
    ]
    return tabulate(lines, headers=head, disable_numparse=True) if lines else ""


def _rate_cell(row: Any) -> str:
    if row is None or row["value"] is None:
        return "-"
    return f"{row['value'] * 100:.0f} ({row['low'] * 100:.0f}-{row['high'] * 100:.0f})"


def _change_cell(row: Any) -> str:
    if row is None or row["value"] is None:
        return "-"
    return f"{row['value'] * 100:+.0f} ({row['low'] * 100:+.0f} to {row['high'] * 100:+.0f})"


def _mean_cell(row: Any) -> str:
    return "-" if row is None else f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _count_cell(row: Any) -> str:
    return "-" if row is None else f"{row['value']:.0f}"


def _times(lakehouse: Lakehouse, mine: Column) -> str:
    steps = [
        row.asDict()
        for row in lakehouse.read("steps")
        .where(mine & F.col("step").isin(list(ALL)))  # what judges read later is no time of the round
        .select(
            "round",
            "state",
            (F.unix_micros("ended_at") / 1e6).alias("end"),
            (F.unix_micros("started_at") / 1e6).alias("start"),
            "busy_seconds",
            "driven_by",
        )
        .collect()
    ]
    if not steps:
        return ""
    times = [
        (round, *time_of([row for row in steps if row["round"] == round]))
        for round in sorted({row["round"] for row in steps if row["state"] == "done"})
    ]
    return tabulate(
        [
            ["warm start" if round == 0 else f"round {round}", f"{seconds:.0f}", f"{idle * 100:.0f}"]
            for round, seconds, idle in times
        ],
        headers=["time", "seconds", "% with no step asking and no trainer"],
        disable_numparse=True,
    )


def time_of(attempts: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The seconds that a round took, and the share of them in which no step was asking and no trainer ran.

    They are those from each driver's first attempt to its last one's end: what lies between two drivers, hours in which a run lay
    stopped or an attempt that was killed, is neither.

    Args:
        attempts: at the round's steps, whatever became of them: `state`, `start` and `end` (seconds), `busy_seconds` and `driven_by`.
    """
    drivers: dict[str | None, list[Mapping[str, Any]]] = {}
    # Of attempts from before drivers were told apart, those that failed may lie days before the others.
    told = [row for row in attempts if row["driven_by"] is not None or row["state"] == "done"]
    for row in told:
        drivers.setdefault(row["driven_by"], []).append(row)
    seconds = sum(
        max(row["end"] for row in its) - min(row["start"] for row in its) for its in drivers.values()
    )
    busy = sum(row["busy_seconds"] for row in told)
    return seconds, max(0.0, 1 - busy / seconds) if seconds else 0.0
