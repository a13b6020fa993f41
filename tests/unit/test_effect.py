"""Pooling of runs: means, reductions and their intervals over prompts."""

import numpy as np
import pandas as pd
import pytest

from pipelines.effect import Pooled, difference, pool


def answers(*rates: float, prompts: int = 100, runs: int = 3, seed: int = 0) -> pd.DataFrame:
    """Answers of some runs to the same prompts, one rate a round."""
    source = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {"run_id": run, "round": round, "prompt_id": prompt, "hit": bool(source.random() < rate)}
            for run in range(runs)
            for round, rate in enumerate(rates)
            for prompt in range(prompts)
        ]
    )


def test_a_rate_is_the_mean_over_all_runs_and_prompts() -> None:
    rows = answers(0.8, 0.2)
    found = pool(rows, "hit").rate(1)
    assert found.value == pytest.approx(rows[rows["round"] == 1]["hit"].mean())
    assert (found.answers, found.prompts) == (300, 100)
    assert found.low < found.value < found.high


def test_a_reduction_is_a_share_of_the_warm_start() -> None:
    found = pool(answers(0.8, 0.2, prompts=2000), "hit").reduction(1)
    assert found.value == pytest.approx(0.75, abs=0.03)
    assert 0.7 < found.low < found.value < found.high < 0.8


def test_answers_to_one_prompt_that_agree_over_runs_are_no_independent_evidence() -> None:
    once = answers(0.5, runs=1)
    thrice = pd.concat([once.assign(run_id=run) for run in range(3)])
    one, three = pool(once, "hit").rate(0), pool(thrice, "hit").rate(0)
    assert three.answers == 3 * one.answers
    assert (three.low, three.high) == pytest.approx((one.low, one.high))


def test_a_rate_of_nothing_still_has_an_upper_bound() -> None:
    found = pool(answers(0.5, 0.0), "hit").rate(1)
    assert found.value == found.low == 0.0
    assert 0.0 < found.high < 0.1


def test_no_change_between_equal_rounds_is_told_apart() -> None:
    found = pool(answers(0.5, 0.5), "hit").change(1)
    assert found.low < 0 < found.high


def test_two_methods_on_the_same_prompts_are_drawn_together() -> None:
    rows = answers(0.5, 0.5)
    better = rows.assign(hit=rows["hit"] & (rows["round"] == 0))
    found = difference(pool(better, "hit"), pool(rows, "hit"), 1)
    assert found.high < 0
    assert difference(pool(rows, "hit"), pool(rows, "hit"), 1).low == 0.0


def test_verdicts_that_a_judge_could_not_give_are_left_out() -> None:
    rows = answers(0.5).astype({"hit": object})
    rows.loc[0, "hit"] = None
    assert pool(rows, "hit").rate(0).answers == 299


def test_without_rows_nothing_is_claimed() -> None:
    found = pool(answers(0.5).iloc[:0], "hit")
    assert isinstance(found, Pooled)
    assert np.isnan(found.rate(0).value)
