"""The tables of a summary, from rows of `round_metrics` by hand."""

from dataclasses import asdict
from typing import Any

from jobs.summary import figures, time_of
from pipelines.stats import wilson


def _rate(round: int, metric: str, judge: str, hits: int, n: int) -> dict[str, Any]:
    place = {"round": round, "metric": metric, "judge": judge, "slice": "all"}
    return place | asdict(wilson(hits, n))


def _lines(*rows: dict[str, Any]) -> dict[str, list[str]]:
    """Of each line of the first table its cells, by its name."""
    table = figures(rows)[0].splitlines()
    starts = [at for at, mark in enumerate(table[1]) if mark == "-" and (at == 0 or table[1][at - 1] == " ")]
    parts = [
        [line[begin:end].strip() for begin, end in zip(starts, [*starts[1:], None], strict=True)]
        for line in table
    ]
    return {name: cells for name, *cells in parts}


def test_an_n_that_differs_between_rounds_stands_with_each_rate() -> None:
    lines = _lines(
        _rate(0, "violation_rate", "truth", 9, 10),
        _rate(1, "violation_rate", "truth", 5, 10),
        _rate(1, "attack_success_rate", "truth", 12, 101),
        _rate(2, "attack_success_rate", "truth", 5, 12),
    )
    assert lines["violation, truth"] == ["10", "90 (60-98)", "50 (24-76)", "-"]
    assert lines["attack success in the round, truth"] == ["", "-", "12 (7-20) of 101", "42 (19-68) of 12"]


def test_the_agreement_of_a_reward_model_is_told_where_it_was_trained() -> None:
    lines = _lines(
        _rate(0, "reward_model_agreement", "safety", 90, 100), _rate(1, "violation_rate", "safety", 1, 4)
    )
    assert lines["agreement with held-out labels, safety"] == ["100", "90 (83-94)", "-"]


def test_what_lies_between_two_drivers_is_no_time_of_a_round() -> None:
    attempts = [
        {"start": start, "end": end, "busy_seconds": busy, "driven_by": who, "state": "failed"}
        for start, end, busy, who in (
            (0.0, 60.0, 50.0, "process:a"),
            (60.0, 100.0, 30.0, "process:a"),
            (90_000.0, 90_100.0, 70.0, "process:b"),
        )
    ]
    assert time_of(attempts) == (200.0, 0.25)


def test_what_lies_between_steps_of_one_driver_is_idle() -> None:
    attempts = [
        {
            "start": start,
            "end": start + 40.0,
            "busy_seconds": 40.0,
            "driven_by": "scheduler:7",
            "state": "done",
        }
        for start in (0.0, 60.0)
    ]
    assert time_of(attempts) == (100.0, 1 - 80 / 100)
