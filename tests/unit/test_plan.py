"""Which steps run side by side, and what is counted as busy then."""

import pytest

from jobs.flags import config_path
from pipelines.busy import BusyClock
from pipelines.config import load_config
from pipelines.plan import needs, side_by_side, steps_of
from pipelines.step import Counts


@pytest.mark.parametrize("round", [0, 1])
def test_steps_side_by_side_are_all_steps_in_order_and_none_needs_another(round: int) -> None:
    steps = steps_of(load_config(config_path("sandbox")), round)
    groups = side_by_side(steps)
    assert [step for group in groups for step in group] == list(steps)
    for group in groups:
        assert not {name for step in group for name in needs(step)} & {step.name for step in group}


@pytest.mark.parametrize(
    ("round", "expected"),
    [
        (0, [["train_helpfulness", "curate_warm_target"], ["train_warm_target", "curate_warm_adversary"]]),
        (1, [["train_adversary", "curate_target"]]),
    ],
)
def test_evaluations_run_side_by_side_and_curation_beside_the_training_before_it(
    round: int, expected: list[list[str]]
) -> None:
    groups = side_by_side(steps_of(load_config(config_path("sandbox")), round))
    assert [[step.name for step in group] for group in groups if len(group) > 1] == [
        *expected,
        ["evaluate_reference", "evaluate_target", "evaluate_adversary"],
    ]


def test_time_in_which_two_steps_are_busy_is_shared_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([10.0, 11.0, 15.0, 16.0, 20.0, 23.0])
    monkeypatch.setattr("pipelines.busy.time.monotonic", lambda: next(readings))
    clock, first, second = BusyClock(), Counts(), Counts()
    with clock.running(first), clock.running(second):
        pass
    assert (first.busy_seconds, second.busy_seconds) == (1.0 + 2.0 + 1.0, 2.0)
    with clock.running(second):
        pass
    assert (first.busy_seconds, second.busy_seconds) == (4.0, 2.0 + 3.0), "idle time in between is nobody's"
