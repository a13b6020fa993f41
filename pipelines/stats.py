"""The statistics of the reports: rates with intervals, paired differences. One implementation; SQL twins are tested."""

import math
from dataclasses import dataclass

_Z = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % interval; all three are None for n = 0."""

    successes: int
    n: int
    value: float | None
    low: float | None
    high: float | None


def wilson(successes: int, n: int) -> Rate:
    """A rate with its 95 % Wilson score interval.

    Raises:
        ValueError: successes outside 0..n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Rate(0, 0, None, None, None)
    share = successes / n
    centre = (share + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z / (1 + _Z * _Z / n) * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Rate(successes, n, share, low, high)


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two rates on the same n items, with its 95 % interval; None for n = 0."""

    n: int
    value: float | None
    low: float | None
    high: float | None


def paired_difference(gained: int, lost: int, n: int) -> Difference:
    """Difference of two rates on the same items, second less first.

    The interval is Wald's for paired proportions with a half added to each discordant cell and two to n (the
    adjustment of Agresti and Min, 2005).

    Args:
        gained: items that only the second has.
        lost: items that only the first has.
        n: all items.

    Raises:
        ValueError: counts that no n items give.
    """
    if min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n}")
    if n == 0:
        return Difference(0, None, None, None)
    up, down, total = gained + 0.5, lost + 0.5, n + 2.0
    centre = (up - down) / total
    half = _Z * math.sqrt(max(up + down - (up - down) ** 2 / total, 0.0)) / total
    return Difference(n, (gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half))


def mean_half_width(deviation: float, n: int) -> float:
    """Half the 95 % interval of a mean, by the normal approximation; 0 for a single item, which tells none.

    Args:
        deviation: sample standard deviation.
        n: items.
    """
    return _Z * deviation / math.sqrt(n) if n > 1 else 0.0
