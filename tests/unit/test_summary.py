"""The tables of a summary, from rows of `round_metrics` by hand."""

from dataclasses import asdict
from typing import Any

from jobs.summary import figures
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
