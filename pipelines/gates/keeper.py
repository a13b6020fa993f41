"""What comes of a gate's verdicts: each is a row, a refusal stops the step unless someone let it pass by name."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.bundled import bundled
from pipelines.config import GatesConfig, RunConfig
from pipelines.errors import GateBlocked
from pipelines.gates.checks import CheckResult, run_gate, sentence
from pipelines.gates.frames import gate_batch
from pipelines.gates.suites import Suite, load_suites
from pipelines.lakehouse import Lakehouse
from pipelines.step import Counts, Inputs
from schemas.digests import digest
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
            ConfigError: a suite says what Great Expectations does not take.
        """
        return suites_of(self._config)

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


def suites_of(config: GatesConfig) -> Mapping[str, Suite]:
    """The suites that a configuration names, by gate.

    Raises:
        ConfigError: a suite says what Great Expectations does not take.
    """
    path = Path(config.suites)
    found = path if path.is_absolute() or path.exists() else bundled("conf") / path
    return load_suites(found, config.parameters)
