"""A gate that refuses stops its step before anything is published; a round goes on past it by name, or in a fork with other settings."""

from collections.abc import Callable

import pytest

from pipelines.errors import GateBlocked
from pipelines.runner import Runner
from pipelines.verify import verify_run
from tests.e2e.small import SMALLEST

# No scorer spreads its verdicts over the whole range; nobody learns, which is not what is asked here.
REFUSING = {
    "gates.parameters.min_spread": 1.0,
    "adversary.enabled": False,
    "target.enabled": False,
}


def test_a_refused_round_ends_when_its_checks_are_let_pass_or_in_a_fork_that_asks_less(
    runner_of: Callable[..., Runner],
) -> None:
    runner = runner_of(SMALLEST | REFUSING)
    lakehouse = runner.lakehouse
    runner.run_round(0)
    with pytest.raises(GateBlocked, match=r"check safety_spread saw .* and wants .*mart override") as refused:
        runner.run_round(1)
    assert refused.value.exit_code == 3
    blocked = lakehouse.read("steps").where("step = 'score'").collect()
    assert [(row["state"], row["attempt"]) for row in blocked] == [("blocked", 1)]
    assert "safety_spread" in blocked[0]["error"]

    failed = lakehouse.read("quality_results").where("NOT success").select("check_name").collect()
    said = {"run_id": "r", "round": 1, "gate": "scores", "approved_by": "me", "reason": "a try"}
    lakehouse.append_rows("gate_overrides", [said | {"check_name": row["check_name"]} for row in failed])
    runner.run_round(1)
    assert verify_run(lakehouse, runner.artifacts, "r").differences == []

    fork = runner_of(SMALLEST | REFUSING | {"gates.parameters.min_spread": 0.0}, "other", ("r", 0))
    fork.run_round(1)
    done = lakehouse.read("steps").where("run_id = 'other' AND state = 'done'")
    assert {row["round"] for row in done.select("round").collect()} == {1}
    assert verify_run(lakehouse, fork.artifacts, "other").differences == []
