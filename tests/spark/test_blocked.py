"""A gate that refuses stops its step before anything is published; a round goes on past it by name, or in a fork with other settings.

A round that yields too few successful attacks goes on without its adversary's training.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from jobs.flags import config_path
from jobs.summary import summary
from pipelines.beginning import begin
from pipelines.errors import ConfigError, GateBlocked
from pipelines.gates.keeper import GateKeeper
from pipelines.history import now
from pipelines.imports import check_datasets
from pipelines.plan import steps_of
from pipelines.runner import Runner
from pipelines.verify import verify_run
from tests.e2e.small import SMALLEST

# No scorer spreads its verdicts over the whole range; nobody learns, which is not what is asked here.
REFUSING = {
    "gates.parameters.min_spread": 1.0,
    "adversary.enabled": False,
    "target.enabled": False,
}
NO_ATTACK_SUCCEEDS = {"select.theta_s_adv": 0.0, "adversary.min_attacks": 1, "target.enabled": False}
SAT_OUT = "0 successful attacks, and adversary.min_attacks asks for 1: the adversary stays as it is"


def test_a_refused_round_ends_when_its_checks_are_let_pass_or_in_a_fork_that_its_adversary_sits_out(
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

    fork = runner_of(SMALLEST | NO_ATTACK_SUCCEEDS, "other", ("r", 0))
    for step in steps_of(fork.config, 1):  # as a scheduler's tasks, which know nothing of each other
        with closing(Runner(lakehouse, fork.artifacts, fork.config, "other", single_step=True)) as alone:
            alone.run_step(step, 1)
    done = lakehouse.read("steps").where("run_id = 'other' AND state = 'done'")
    assert {row["round"] for row in done.select("round").collect()} == {1}
    assert verify_run(lakehouse, fork.artifacts, "other").differences == []

    fork.history.refresh()
    curated, trained = (fork.history.counts(1, f"{does}_adversary") for does in ("curate", "train"))
    assert curated.get("sat_out") == trained.get("sat_out") == SAT_OUT
    assert f"round 1 train_adversary: {SAT_OUT}" in summary(lakehouse, "other")
    fork.history.record_done(0, "train_warm_adversary", {"role": "adversary", "checkpoint_id": "warm"})
    assert fork.context(2).checkpoints["adversary"] == "warm", "as it was before the round"
    assert lakehouse.read("training_examples").isEmpty() and lakehouse.read("checkpoints").isEmpty()


def test_a_run_whose_data_is_not_there_is_not_begun_and_may_have_other_settings(
    runner_of: Callable[..., Runner],
) -> None:
    runner = runner_of(SMALLEST)
    lakehouse, config = runner.lakehouse, runner.config
    wrong = config.model_copy(update={"data": config.data.model_copy(update={"seeds": "nothing"})})
    with pytest.raises(ConfigError, match=r"data\.seeds is 'nothing'"):
        begin(lakehouse, wrong, "new", first=lambda: check_datasets(lakehouse, wrong))
    assert begin(lakehouse, config, "new", first=lambda: check_datasets(lakehouse, config))
    assert not begin(lakehouse, config, "new")


def test_a_run_keeps_the_suites_that_it_began_with_and_a_fork_may_have_others(
    runner_of: Callable[..., Runner], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(config_path("gates").read_text(encoding="utf-8"), encoding="utf-8")
    runner = runner_of(SMALLEST | {"gates.suites": str(file)})
    lakehouse, config = runner.lakehouse, runner.config
    begin(lakehouse, config, "r")
    edited = file.read_text(encoding="utf-8").replace("min_scored: 1.0", "min_scored: 0.1")
    file.write_text(edited, encoding="utf-8")
    told = "gate scores asks something else than when run r began.*`mart override`; .*`mart run --run-id NEW --fork r@"
    with pytest.raises(ConfigError, match=told):
        begin(lakehouse, config, "r")
    with pytest.raises(ConfigError, match=told):
        _ = GateKeeper(lakehouse, config, "r").suites

    last = {
        "run_id": "r", "round": 0, "step": steps_of(config, 0)[-1].name, "attempt": 1, "state": "done", "started_at": now(),
        "ended_at": now(), "reads": "{}", "writes": "{}", "counts": "{}", "busy_seconds": 0.0,
    }  # fmt: skip
    lakehouse.append_rows("steps", [last])
    begin(lakehouse, config, "f", ("r", 0))
    assert GateKeeper(lakehouse, config, "f").suites

    lakehouse.spark.sql(f"UPDATE {lakehouse.name('runs')} SET gate_suites = NULL WHERE run_id = 'r'")
    begin(lakehouse, config, "r")  # as if it had begun before they were kept
    assert GateKeeper(lakehouse, config, "r").suites
