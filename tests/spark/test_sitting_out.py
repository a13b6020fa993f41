"""A round that yields too few successful attacks: the adversary stays as it is, and the round goes on."""

from collections.abc import Callable

from jobs.summary import summary
from pipelines.runner import Runner
from pipelines.verify import verify_run
from tests.e2e.small import SMALLEST

NO_ATTACK_SUCCEEDS = {"select.theta_s_adv": 0.0, "adversary.min_attacks": 1, "target.enabled": False}


def test_the_adversary_sits_out_a_round_without_successful_attacks(
    runner_of: Callable[..., Runner],
) -> None:
    runner = runner_of(SMALLEST | NO_ATTACK_SUCCEEDS)
    for round in (0, 1):
        runner.run_round(round)
    lakehouse = runner.lakehouse
    reason = "0 successful attacks, and adversary.min_attacks asks for 1: the adversary stays as it is"
    assert [
        runner.history.counts(1, name).get("sat_out") for name in ("curate_adversary", "train_adversary")
    ] == [reason] * 2
    assert f"round 1 train_adversary: {reason}" in summary(lakehouse, "r")
    runner.history.record_done(0, "train_warm_adversary", {"role": "adversary", "checkpoint_id": "warm"})
    assert runner.context(2).checkpoints["adversary"] == "warm", "as it was before the round"
    assert lakehouse.read("training_examples").count() == lakehouse.read("checkpoints").count() == 0
    assert verify_run(lakehouse, runner.artifacts, "r").differences == []
