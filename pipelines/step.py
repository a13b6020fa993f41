"""What a step is: its inputs and outputs declared, its work a function. The runner does the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.config import RunConfig
from pipelines.engines.protocol import GenerationOutcome, ScorerSpec
from schemas.tables import BY_NAME

Role = Literal["adversary", "target", "safety_rm", "helpfulness_rm"]


@dataclass(frozen=True, slots=True)
class RoundContext:
    """Where a step stands.

    Attributes:
        spark: the session.
        config: the run's configuration.
        run_id, round: whose work it is; round 0 is the warm start.
        checkpoints: role to the checkpoint id in force when the step starts; None is the bare base.
        targets: each round so far, this one included, to the target in force at its end.
        scorers: the run's judges by name, reward models and evaluation judges alike; empty before they are there.
        base: directory of the base model.
        began_in: the run that the warm start belongs to; a fork's is the first of its ancestors.
    """

    spark: SparkSession
    config: RunConfig
    run_id: str
    round: int
    checkpoints: Mapping[str, str | None]
    targets: Mapping[int, str | None]
    scorers: Mapping[str, ScorerSpec]
    base: str
    began_in: str

    def warm_start(self) -> "RoundContext":
        """The same at round 0."""
        return replace(self, round=0, run_id=self.began_in)

    @property
    def is_last(self) -> bool:
        """Whether this is the last round that the configuration asks for."""
        return self.round == self.config.rounds


@dataclass(frozen=True, slots=True)
class Inputs:
    """The tables that a step declared, at their recorded versions and with published rows only."""

    context: RoundContext
    frames: Mapping[str, DataFrame]

    def __getitem__(self, table: str) -> DataFrame:
        """A declared table.

        Raises:
            KeyError: the step did not declare it.
        """
        if table not in self.frames:
            raise KeyError(
                f"the step reads {table!r} without declaring it; it declares {', '.join(self.frames)}"
            )
        return self.frames[table]

    def this_round(self, table: str) -> DataFrame:
        """The rows of this run and round."""
        context = self.context
        return self[table].where((F.col("run_id") == context.run_id) & (F.col("round") == context.round))


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of a round.

    Attributes:
        name: what schedulers, tables and people call it.
        reads: tables it reads.
        reads_round_0: tables of which it reads the rows of round 0 only, so that it waits for no step of its own round.
        writes: the table it writes.
        also_writes: tables that it writes besides.
        section: the section of the paper (arXiv 2311.07689) that it implements, or what else it is for.
        gates: gates that its batch must pass before it counts as published.
        gpu: whether it needs the device.
    """

    name: str
    reads: tuple[str, ...]
    writes: str
    reads_round_0: tuple[str, ...] = ()
    also_writes: tuple[str, ...] = ()
    section: str
    gates: tuple[str, ...] = ()
    gpu: bool = False

    def __post_init__(self) -> None:
        named = (*self.inputs, self.writes, *self.also_writes)
        unknown = [table for table in named if table not in BY_NAME]
        if unknown:
            raise ValueError(
                f"step {self.name} declares {', '.join(unknown)}, which schemas/tables.py does not have"
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """All tables that it reads of."""
        return (*self.reads, *self.reads_round_0)


@dataclass(frozen=True, kw_only=True)
class TableStep(Step):
    """A step that is a function from named frames to one frame.

    Attributes:
        build: the function.
        scope: columns whose values the written rows share and are replaced by: what is run again never doubles.
        asks_judges: whether it asks the run's evaluation judges, which may cost.
    """

    build: Callable[[Inputs], DataFrame]
    scope: tuple[str, ...] = ("run_id", "round")
    asks_judges: bool = False


@dataclass(frozen=True, kw_only=True)
class CurateStep(Step):
    """A step that makes the training set of one role.

    Attributes:
        role: whose.
        build: gives the rows: input, output, weight, label, rejected, split, source, source_table, source_ids and
            `order`, by which they are sorted; the runner adds positions, digests and the checkpoint's id.
        warm: whether the checkpoint belongs to no run: the same content is trained once for all runs.
        reason_to_sit_out: says why the role is not trained in this round and stays as it is; None where it is trained.
    """

    role: Role
    build: Callable[[Inputs], DataFrame]
    warm: bool = False
    reason_to_sit_out: Callable[[Inputs], str | None] = lambda inputs: None


@dataclass(frozen=True, kw_only=True)
class TrainStep(Step):
    """A step that trains one role on the set its curate step made, outside Spark, and registers the checkpoint."""

    role: Role
    curated_by: str


@dataclass(frozen=True, kw_only=True)
class GenerationStep(Step):
    """A step that asks a model: a plan of requests, and a function from each answer to a row.

    Attributes:
        role: which model is asked.
        plan: gives the requests' columns up to `sample_index` but for the ids and the rendered input.
        outcome: (request row, outcome) to the columns of `writes` that the runner can't fill in itself.
    """

    also_writes: tuple[str, ...] = ("requests",)
    role: Role
    plan: Callable[[Inputs], DataFrame]
    outcome: Callable[[Mapping[str, Any], GenerationOutcome], dict[str, Any]]


PLAN_COLUMNS: Sequence[str] = (
    "checkpoint_id",
    "messages",
    "parent_ids",
    "primary_parent",
    "root_seed_ids",
    "depth",
    "suite",
    "category",
    "style",
    "prompt",
    "preamble",
    "temperature",
    "top_p",
    "max_tokens",
    "sample_index",
)
# The same as Spark's DDL, for plans of rows by hand.
PLAN_SCHEMA = ", ".join(
    f"{column.name} {column.type}" for column in BY_NAME["requests"].columns if column.name in PLAN_COLUMNS
)


@dataclass
class Counts:
    """What a step counts; written to its row in `steps`."""

    values: dict[str, Any] = field(default_factory=dict)
    busy_seconds: float = 0.0
