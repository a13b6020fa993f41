"""What comes of a gate's verdicts: each is a row, a refusal stops the step unless someone let it pass by name."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.bundled import bundled
from pipelines.config import GatesConfig, RunConfig
from pipelines.errors import ConfigError, GateBlocked
from pipelines.gates.checks import CheckResult, run_gate, sentence
from pipelines.gates.frames import gate_batch
from pipelines.gates.suites import Suite, load_suites
from pipelines.lakehouse import Lakehouse
from pipelines.shown import fork_command
from pipelines.step import Counts, Inputs
from schemas.digests import canonical_json, digest
from schemas.tables import BY_NAME


class GateKeeper:
    """The gates of one run.

    Args:
        lakehouse: the tables.
        config: names the suites and what replaces their thresholds.
        run_id: the run.
    """

    def __init__(self, lakehouse: Lakehouse, config: RunConfig, run_id: str) -> None:
        self._lakehouse = lakehouse
        self._run_id = run_id
        self._config = config.gates

    @cached_property
    def suites(self) -> Mapping[str, Suite]:
        """The suites by gate, read when first asked for.

        Raises:
            ConfigError: a suite says what Great Expectations does not take, or is not the one that the run began with.
        """
        suites = suites_of(self._config)
        row = self._lakehouse.read("runs").where(F.col("run_id") == self._run_id).head()
        check_suites(self._run_id, row["gate_suites"] if row else None, suites)
        return suites

    def pass_through(self, gate: str, inputs: Inputs, batch: DataFrame, attempt: int, counts: Counts) -> None:
        """Check a step's batch, and count the checks.

        Raises:
            GateBlocked: a check failed that nobody has let pass.
        """
        suite, round = self.suites[gate], inputs.context.round
        results = run_gate(suite, gate_batch(gate, inputs, batch))
        self._record(gate, suite.digest, round, attempt, results)
        counts.values[f"checks_{gate}"] = len(results)
        refused = [result for result in results if not result.success]
        if refused:
            overridden = self._overrides(gate, round)
            refused = [result for result in refused if result.check_name not in overridden]
        if refused:
            told = sentence(gate, refused, self._run_id, round)
            raise GateBlocked(f"run {self._run_id} round {round}: {told}")

    def _record(
        self, gate: str, suite_digest: str, round: int, attempt: int, results: list[CheckResult]
    ) -> None:
        rows = [
            {
                "run_id": self._run_id,
                "round": round,
                "gate": gate,
                "attempt": attempt,
                "suite_digest": suite_digest,
                **{
                    key: value
                    for key, value in asdict(result).items()
                    if key in BY_NAME["quality_results"].names
                },
            }
            for result in results
        ]
        # Killed before its step is on record, an attempt is made again under the same number, with the same results.
        once = digest([self._run_id, round, gate, attempt, "quality_results"])
        self._lakehouse.append_rows("quality_results", rows, once=once)

    def _overrides(self, gate: str, round: int) -> set[str]:
        rows = self._lakehouse.read("gate_overrides").where(
            (F.col("run_id") == self._run_id) & (F.col("round") == round) & (F.col("gate") == gate)
        )
        return {row["check_name"] for row in rows.select("check_name").collect()}


def suites_of(config: GatesConfig, *, asked: bool = True) -> Mapping[str, Suite]:
    """The suites that a configuration names, by gate; with `asked`, as in `load_suites`.

    Raises:
        ConfigError: a suite says what Great Expectations does not take.
    """
    return load_suites(suites_path(config), config.parameters, asked=asked)


def suites_path(config: GatesConfig) -> Path:
    """The file of suites that a configuration names: that of the package by its bare name, any other by its path."""
    path = Path(config.suites)
    packaged = bundled("conf") / path
    return packaged if path.name == config.suites and packaged.is_file() else path


def digests_of(suites: Mapping[str, Suite]) -> str:
    """Each gate's digest as JSON: what a run keeps of the suites that it began with."""
    return canonical_json({gate: suite.digest for gate, suite in suites.items()})


def check_suites(run_id: str, begun: str | None, suites: Mapping[str, Suite]) -> None:
    """Compare a run's suites with those that it began with.

    Args:
        run_id: the run.
        begun: from `digests_of`; None for a run begun before this was kept, whose suites may be any.
        suites: as they are now.

    Raises:
        ConfigError: a gate asks something else; names it, and the ways out.
    """
    if begun is None:
        return
    kept = json.loads(begun)
    if changed := [gate for gate, suite in suites.items() if kept.get(gate) != suite.digest]:
        raise ConfigError(
            f"gate {', '.join(changed)} asks something else than when run {run_id} began, and a run keeps its gates: put the "
            "suites back, and let a batch that they refuse pass by name with `mart override`; or have a fork ask these: "
            f"`{fork_command(run_id)}`, with the same --config and --set"
        )
