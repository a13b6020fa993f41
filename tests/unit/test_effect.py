"""Pooling of runs: means, reductions and their intervals over prompts."""

import numpy as np
import pandas as pd
import pytest

from jobs.effect import rate_table
from pipelines.effect import RATES, Effect, Estimate, Pooled, as_rows, difference, pool
from pipelines.stats import paired_difference, wilson


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


def same(*rates: float, prompts: int = 20, runs: int = 3) -> pd.DataFrame:
    """Answers in which all prompts agree: in each round every prompt is hit in the same share of runs."""
    rows = answers(*rates, prompts=prompts, runs=runs)
    return rows.assign(hit=[row.run_id < rates[row.round] * runs for row in rows.itertuples()])


def partly_judged(lacking: int = 1) -> pd.DataFrame:
    """Answers of one run whose judge failed on 80 of 100 prompts in a round, all of which the other round has hit.

    Of the other 20, half are hit in both rounds.
    """
    rows = same(0.0, 0.0, prompts=100, runs=1).astype({"hit": object})
    judged = rows["prompt_id"] < 20
    rows.loc[rows["prompt_id"] % 2 == 0, "hit"] = True
    rows.loc[~judged, "hit"] = True
    rows.loc[~judged & (rows["round"] == lacking), "hit"] = None
    return rows


def interval(found: Estimate) -> tuple[float, float]:
    return found.low, found.high


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


def test_a_share_that_is_the_same_in_each_prompt_is_no_exact_rate() -> None:
    found = pool(same(1 / 3, prompts=1), "hit").rate(0)
    assert found.low < found.value < found.high


def test_no_change_between_equal_rounds_is_told_apart() -> None:
    found = pool(answers(0.5, 0.5), "hit").change(1)
    assert found.low < 0 < found.high


def test_two_methods_on_the_same_prompts_are_drawn_together() -> None:
    rows = answers(0.5, 0.5)
    better = rows.assign(hit=rows["hit"] & (rows["round"] == 0))
    found = difference(pool(better, "hit"), pool(rows, "hit"), 1)
    assert found.high < 0


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_a_method_is_told_apart_from_itself_no_closer_than_so_many_prompts_allow(rate: float) -> None:
    pooled = pool(answers(rate, rate), "hit")
    found, bound = difference(pooled, pooled, 1), paired_difference(gained=0, lost=0, n=100)
    assert found.value == 0.0
    assert interval(found) == (bound.low, bound.high)


def test_two_methods_are_compared_on_the_prompts_that_both_have_judged() -> None:
    rows = partly_judged()
    whole = rows.assign(hit=[answer is not False for answer in rows["hit"]])
    for first, second in ((rows, whole), (whole, rows)):
        found = difference(pool(first, "hit"), pool(second, "hit"), 1)
        assert (found.value, found.answers, found.prompts) == (0.0, 20, 20)


@pytest.mark.parametrize(("before", "after"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_change_of_all_prompts_is_no_surer_than_their_number_allows(before: float, after: float) -> None:
    found = pool(same(before, after), "hit").change(1)
    bound = paired_difference(gained=20 * int(after), lost=20 * int(before), n=20)
    assert found.value == bound.value
    assert interval(found) == (bound.low, bound.high)
    assert found.low < found.high


def test_no_change_of_any_prompt_is_no_proof_that_there_is_none() -> None:
    found, bound = pool(same(0.0, 0.0), "hit").change(1), paired_difference(gained=0, lost=0, n=20)
    assert found.value == 0.0
    assert interval(found) == (bound.low, bound.high)


def test_the_same_share_of_each_prompt_is_no_exact_change() -> None:
    found = pool(same(1.0, 1 / 3), "hit").change(1)
    assert found.value == pytest.approx(-2 / 3)
    assert found.low < -0.8 < -0.5 < found.high


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_reduction_to_nothing_is_as_sure_as_the_bound_of_what_is_left(rate: float) -> None:
    rows = answers(rate, 0.0)
    found = pool(rows, "hit").reduction(1)
    left = wilson(0, 100).high
    assert left is not None
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(1 - left / rows[rows["round"] == 0]["hit"].mean())


def test_no_reduction_in_any_prompt_is_the_change_as_a_share() -> None:
    rows = answers(0.5)
    found = pool(pd.concat([rows, rows.assign(round=1)]), "hit").reduction(1)
    bound = paired_difference(gained=0, lost=0, n=100)
    assert bound.high is not None
    assert found.value == 0.0
    assert found.high == -found.low == pytest.approx(bound.high / rows["hit"].mean())


def test_a_reduction_is_never_by_more_than_all() -> None:
    found = pool(same(1 / 3, 1 / 3, prompts=1), "hit").reduction(1)
    assert found.low < found.value < found.high == 1.0


def test_a_quantity_that_is_no_share_has_the_interval_of_its_draws() -> None:
    rows = pd.DataFrame({"round": [0, 0, 1, 1], "prompt_id": [0, 1, 0, 1], "nll": [2.0, 3.0, 2.0, 3.0]})
    assert interval(pool(rows, "nll").relative_change(1)) == (0.0, 0.0)


def test_verdicts_that_a_judge_could_not_give_are_left_out() -> None:
    rows = answers(0.5).astype({"hit": object})
    rows.loc[0, "hit"] = None
    assert pool(rows, "hit").rate(0).answers == 299


def test_a_rate_is_as_sure_as_the_prompts_that_were_judged_in_its_round() -> None:
    rows = same(1.0, 0.0, prompts=200, runs=1).astype({"hit": object})
    rows.loc[(rows["round"] == 1) & (rows["prompt_id"] >= 20), "hit"] = None
    found = pool(rows, "hit").rate(1)
    assert (found.value, found.answers, found.prompts) == (0.0, 20, 20)
    assert interval(found) == (0.0, wilson(0, 20).high)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_change_is_between_the_prompts_that_both_rounds_have_judged(lacking: int) -> None:
    found = pool(partly_judged(lacking), "hit").change(1)
    assert (found.value, found.answers, found.prompts) == (0.0, 20, 20)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_reduction_is_of_the_prompts_that_both_rounds_have_judged(lacking: int) -> None:
    found = pool(partly_judged(lacking), "hit").reduction(1)
    assert (found.value, found.answers, found.prompts) == (0.0, 20, 20)


def test_a_reduction_to_nothing_is_a_share_of_the_prompts_that_were_judged() -> None:
    rows = partly_judged()
    rows.loc[(rows["round"] == 1) & rows["hit"].notna(), "hit"] = False
    left = wilson(0, 20).high
    assert left is not None
    assert pool(rows, "hit").reduction(1).low == pytest.approx(1 - left / 0.5)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_relative_change_is_of_the_prompts_that_both_rounds_have_judged(lacking: int) -> None:
    found = pool(partly_judged(lacking), "hit").relative_change(1)
    assert (found.value, found.answers, found.prompts) == (0.0, 20, 20)


def test_a_comparison_has_the_answers_of_the_side_with_fewer() -> None:
    rows = answers(0.5, 0.5)
    once = rows[rows["run_id"] == 0]
    assert difference(pool(rows, "hit"), pool(once, "hit"), 1).answers == 100


def test_the_answers_behind_a_rate_stand_with_it_where_rounds_differ() -> None:
    full, part = pool(same(1.0, 0.0, runs=1), "hit"), pool(partly_judged(), "hit")
    rates = {name: part if name == "neither" else full for name, *_ in RATES}
    text = rate_table(Effect((0, 1), frozenset(), rates, full, {}, {}))
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert " 20 " in lines["violation"] and " of " not in lines["violation"]
    assert " of 100 " in lines["neither"] and lines["neither"].endswith(" of 20")


def test_a_round_without_a_verdict_keeps_its_place() -> None:
    rows = same(1.0, 0.0, 0.0).astype({"hit": object})
    rows.loc[rows["round"] == 1, "hit"] = None
    found = pool(rows, "hit", rounds=(0, 1, 2))
    assert found.rate(1).prompts == 0 and found.rate(2).value == 0.0
    nothing = pool(rows.iloc[:0], "hit", rounds=(0, 1, 2))
    assert nothing.rate(2).prompts == 0
    rates = {name: found if name == "neither" else nothing for name, *_ in RATES}
    shown = Effect((0, 1, 2), frozenset(), rates, nothing, {}, {})
    assert rate_table(shown).count("nan") == 0 and {row["round"] for row in as_rows(shown)} == {0, 2}


def test_without_rows_nothing_is_claimed() -> None:
    found = pool(answers(0.5).iloc[:0], "hit")
    assert isinstance(found, Pooled)
    assert np.isnan(found.rate(0).value)
    assert (found.rate(0).answers, found.rate(0).prompts) == (0, 0)
