"""Rates, intervals and paired differences against values computed elsewhere."""

import pytest

from pipelines.stats import paired_difference, wilson


def test_wilson_agrees_with_a_published_value() -> None:
    # 81 of 263: Newcombe (1998), table I, method 3.
    rate = wilson(81, 263)
    assert (round(rate.low or 0, 4), round(rate.high or 0, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10)])
def test_an_interval_reaches_the_end_where_the_rate_does(hits: int, n: int) -> None:
    rate = wilson(hits, n)
    assert rate.value in (rate.low, rate.high)


def test_a_rate_of_nothing_has_no_value() -> None:
    assert wilson(0, 0).value is None


def test_more_successes_than_tries_are_refused() -> None:
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_a_paired_difference_has_the_sign_of_the_change() -> None:
    change = paired_difference(gained=2, lost=40, n=100)
    assert change.value == pytest.approx(-0.38)
    assert change.high is not None and change.high < 0


def test_a_paired_difference_without_change_holds_zero() -> None:
    change = paired_difference(gained=0, lost=0, n=50)
    assert change.low is not None and change.high is not None and change.low < 0 < change.high
