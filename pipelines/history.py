"""What a run has done so far, as `steps` tells it: which steps are published, and what they counted."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from pipelines.errors import ConfigError, IntegrityError
from pipelines.lakehouse import Lakehouse
from schemas.digests import json_object
from schemas.tables import BY_NAME


@dataclass(frozen=True, slots=True)
class Part:
    """Rounds of a run that another run reads as its own: `first` to `last`, both included."""

    run_id: str
    first: int
    last: int


class History:
    """The published steps of a run, its forks' ancestors included.

    Args:
        lakehouse: the tables.
        run_id: the run.
    """

    def __init__(self, lakehouse: Lakehouse, run_id: str) -> None:
        self.lakehouse = lakehouse
        self.run_id = run_id
        self.parts = _ancestry(lakehouse, run_id)
        self._done: dict[tuple[int, str], dict[str, Any]] = {}
        self._attempts: Counter[tuple[int, str]] = Counter()
        self.refresh()

    def refresh(self) -> None:
        """Read `steps` again."""
        rows = (
            self.lakehouse.read("steps")
            .where(self.mine())
            .select("run_id", "round", "step", "state", "counts", "reads", "writes")
            .collect()
        )
        self._attempts = Counter((row["round"], row["step"]) for row in rows if row["run_id"] == self.run_id)
        self._done = {(row["round"], row["step"]): told_by(row) for row in rows if row["state"] == "done"}

    def mine(self) -> Column:
        """The condition that a row of a table with `run_id` and `round` belongs to this run or what it was forked from."""
        conditions = [
            (F.col("run_id") == part.run_id) & F.col("round").between(part.first, part.last)
            for part in self.parts
        ]
        whole = conditions[0]
        for condition in conditions[1:]:
            whole = whole | condition
        return whole

    @property
    def began_in(self) -> str:
        """The run that round 0 belongs to: this one, or the first of those it was forked from."""
        return self.parts[-1].run_id

    def is_done(self, round: int, step: str) -> bool:
        """Whether a step is published."""
        return (round, step) in self._done

    def counts(self, round: int, step: str) -> Mapping[str, Any]:
        """What a published step counted.

        Raises:
            KeyError: it is not published.
        """
        return self._done[round, step]["counts"]

    def next_attempt(self, round: int, step: str) -> int:
        """The number of a step's next attempt by this run, from 1; calling it counts that attempt."""
        self._attempts[round, step] += 1
        return self._attempts[round, step]

    def record_done(self, round: int, step: str, counts: Mapping[str, Any]) -> None:
        """Remember a step that was just published."""
        self._done[round, step] = {"counts": dict(counts), "reads": {}, "writes": {}}

    def checkpoint(self, role: str, before: int, steps: Sequence[str]) -> str | None:
        """The checkpoint that a role had after the last of the steps that were published up to a round.

        Args:
            role: whose.
            before: rounds up to and including this one count.
            steps: names of the steps that train the role.
        """
        found = [
            (round, done["counts"]["checkpoint_id"])
            for (round, step), done in list(self._done.items())
            if step in steps and round <= before and _trained(done["counts"]) == role
        ]
        return max(found)[1] if found else None

    def sat_out(self) -> list[tuple[int, str, str]]:
        """Round, step and reason of each training that a round went without."""
        return sorted(
            (round, step, done["counts"]["sat_out"])
            for (round, step), done in self._done.items()
            if step.startswith("train_") and "sat_out" in done["counts"]
        )

    def next_round(self, names_of: Callable[[int], Sequence[str]]) -> int:
        """The first round that has a step left to do; `names_of(round)` gives a round's steps."""
        round = 0
        while all(self.is_done(round, name) for name in names_of(round)):
            round += 1
        return round

    def published(self, table: str, version: int) -> DataFrame:
        """A table at a version, with this run's published rows; imported data is published by its import."""
        frame = self.lakehouse.read(table, version)
        names = BY_NAME[table].names
        if "run_id" not in names or table in ("checkpoints", "training_examples"):
            return frame
        frame = frame.where(self.mine()) if "round" in names else frame.where(F.col("run_id") == self.run_id)
        if "step" in names and table != "requests":
            frame = frame.where(is_among(list(self._done)))
        return frame


def told_by(row: Row) -> dict[str, Any]:
    """The counts, reads and writes of a row of `steps`.

    Raises:
        IntegrityError: one is no JSON object, as none was written.
    """
    told: dict[str, Any] = {}
    for name in ("counts", "reads", "writes"):
        told[name] = json_object(row[name])
        if told[name] is None:
            raise IntegrityError(
                f"{name} of round {row['round']} {row['step']} of run {row['run_id']} in the table steps is no JSON object: it "
                "was changed since the step was published; RESTORE TABLE brings an earlier version back"
            )
    return told


def is_among(steps: Iterable[tuple[int, str]]) -> Column:
    """The condition that a row, by its `round` and `step`, belongs to one of the steps."""
    pairs = sorted(set(steps))
    names = sorted({name for _, name in pairs})  # which Delta skips files by
    return F.col("step").isin(names) & F.concat_ws(" ", "round", "step").isin(
        [f"{round} {name}" for round, name in pairs]
    )


def _trained(counts: Mapping[str, Any]) -> str | None:
    """The role whose checkpoint a step made."""
    return counts.get("role") if "checkpoint_id" in counts else None


def no_such_run(run_id: str, known: Iterable[str]) -> ConfigError:
    """What is told of a run that is not among those known."""
    return ConfigError(f"there is no run {run_id!r}; there are {', '.join(sorted(known)) or 'none'}")


def _ancestry(lakehouse: Lakehouse, run_id: str) -> list[Part]:
    rows = lakehouse.read("runs").select("run_id", "parent_run_id", "parent_round").collect()
    runs = {row["run_id"]: row for row in rows}
    if run_id not in runs:
        raise no_such_run(run_id, runs)
    parts: list[Part] = []
    name, last = run_id, 2**30
    while True:
        row = runs[name]
        parent = row["parent_run_id"]
        first = row["parent_round"] + 1 if parent else 0
        parts.append(Part(name, first, last))
        if not parent:
            return parts
        name, last = parent, min(last, row["parent_round"])


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)
