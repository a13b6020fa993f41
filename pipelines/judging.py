"""`mart judge`: judges that a run was begun without read what it answered, and report its rounds beside its own judges.

Nothing is generated and no row that is there is touched: a judge that came later has steps of its own, `judge_NAME` and
`report_NAME`, in every round that has ended.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pyspark.sql import Row
from pyspark.sql import functions as F

from pipelines.artifacts import Artifacts
from pipelines.config import JudgeConfig, RunConfig
from pipelines.engines.protocol import ScorerSpec
from pipelines.errors import ConfigError
from pipelines.history import History
from pipelines.hosted import check_keys
from pipelines.lakehouse import Lakehouse
from pipelines.lease import RunLease
from pipelines.runner import Runner
from pipelines.scorers import judge_spec
from pipelines.step import RoundContext, Step
from pipelines.steps.report import report_step
from pipelines.steps.score import REWARD_MODELS, judge_step

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a judge has yet to read: rounds of one run, in order."""

    run_id: str
    judge: JudgeConfig
    rounds: tuple[int, ...]


def left_to_read(
    lakehouse: Lakehouse, config: RunConfig, run_id: str, names: Sequence[str] = (), last: int | None = None
) -> list[Reading]:
    """What a configuration's judges have yet to read of a run; rounds that a fork has of another run are that run's.

    Args:
        lakehouse: the tables.
        config: names the judges.
        run_id: the run.
        names: of the judges; all that the configuration has when empty.
        last: the last round to read; None for all that have ended.

    Raises:
        ConfigError: there is no such run, or it has ended no round. Or a judge is not in the configuration, is one that
            selects, or has the name of another that gave verdicts; or the key of its endpoint is not there.
    """
    judges = _named(config, names)
    history = History(lakehouse, run_id)
    ended = _ended(history, last)
    if not ended:
        raise ConfigError(
            f"run {run_id} has ended no round that could be judged; `mart status` shows how far it is"
        )
    given = _given(lakehouse, history)
    found: list[Reading] = []
    known: dict[str, str] = {}
    for judge in judges:
        digest = judge_spec(judge).digest
        _check_name(run_id, judge.name, digest, given)
        if digest in known:
            log.info(
                "judge %s is judge %s by another name: its verdicts are not asked twice",
                judge.name,
                known[digest],
            )
            continue
        known[digest] = judge.name
        steps = [step.name for step in _steps(judge)]
        otherwise = {
            row["round"] for row in given if row["scorer_digest"] == digest and row["step"] not in steps
        }
        left = {
            round: part
            for round, part in ended.items()
            if round not in otherwise and not all(history.is_done(round, step) for step in steps)
        }
        for part in dict.fromkeys(left.values()):
            found.append(Reading(part, judge, tuple(round for round in left if left[round] == part)))
    check_keys(lakehouse.spark, (reading.judge.endpoint for reading in found))
    return found


def _named(config: RunConfig, names: Sequence[str]) -> list[JudgeConfig]:
    judges = {judge.name: judge for judge in config.judges}
    for name in names:
        if name in REWARD_MODELS:
            raise ConfigError(
                f"{name} is a reward model, by which a run selects: it judges while the run goes on, never afterwards"
            )
        if name not in judges:
            raise ConfigError(
                f"the configuration has no judge {name!r}; it has {', '.join(judges) or 'none'}"
            )
    if not judges:
        raise ConfigError("the configuration has no judges; name some under `judges`")
    return [judges[name] for name in dict.fromkeys(names) or judges]


def _ended(history: History, last: int | None) -> dict[int, str]:
    """The rounds that are reported, to the run they belong to, from the first on."""
    found = {}
    for part in reversed(history.parts):
        for round in range(part.first, part.last + 1):
            if not history.is_done(round, "report") or (last is not None and round > last):
                break
            found[round] = part.run_id
    return found


def _given(lakehouse: Lakehouse, history: History) -> list[Row]:
    """Whose verdicts are published: round, step, scorer, scorer_digest."""
    verdicts = lakehouse.read("scores").where(history.mine())
    rows = verdicts.select("round", "step", "scorer", "scorer_digest").distinct().collect()
    return [row for row in rows if history.is_done(row["round"], row["step"])]


def _check_name(run_id: str, name: str, digest: str, given: Sequence[Row]) -> None:
    others = {row["scorer_digest"] for row in given if row["scorer"] == name} - {digest}
    if others:
        raise ConfigError(
            f"judge {name} is not the one whose verdicts run {run_id} has by that name: its digest is {digest[:12]}, theirs "
            f"{', '.join(sorted(other[:12] for other in others))}. Give it another name, or leave it out with --judge"
        )


def _steps(judge: JudgeConfig) -> tuple[Step, Step]:
    return judge_step(judge.name), report_step(judge.name)


class JudgeRunner(Runner):
    """Runs the steps of one judge over rounds that have ended, without the run's models.

    Args:
        lakehouse: the tables.
        artifacts: the artifact root.
        config: how the judge's endpoint and Spark are used; what was asked is looked up in the run's own.
        reading: the judge, and what it reads.
        lease: of who reads: checked before each step, which names its holder.
    """

    def __init__(
        self,
        lakehouse: Lakehouse,
        artifacts: Artifacts,
        config: RunConfig,
        reading: Reading,
        *,
        lease: RunLease | None = None,
    ) -> None:
        (run,) = lakehouse.read("runs").where(F.col("run_id") == reading.run_id).collect()
        asked = json.loads(run["config"])["data"]
        data = config.data.model_copy(update={name: asked[name] for name in ("suites", "split")})
        config = config.model_copy(update={"data": data, "judges": [reading.judge]})
        super().__init__(lakehouse, artifacts, config, reading.run_id, lease=lease)
        self._reading = reading

    def read(self) -> None:
        """Have the judge read every round, and report it; what is published already is left as it is.

        Raises:
            MartError: of the first step that failed.
        """
        for round in self._reading.rounds:
            for step in _steps(self._reading.judge):
                self.run_step(step, round)

    @cached_property
    def scorers(self) -> dict[str, ScorerSpec]:
        """The judge."""
        specs = self.judges()
        self.enter_scorers(specs, {})
        return specs

    def context(self, round: int) -> RoundContext:
        """Where the run stood at the end of a round, as far as a judge is concerned."""
        return RoundContext(
            spark=self.lakehouse.spark,
            config=self.config,
            run_id=self.run_id,
            round=round,
            checkpoints={},
            targets=self.targets(round),
            scorers=self.scorers,
            base="",
            began_in=self.history.began_in,
        )

    def _check_predecessors(self, step: Step, round: int) -> None:
        """None is missing: the round has ended, and a judge's two steps follow one another."""
