"""Success rates and their paired differences: exact where that is possible, no dependency."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson_interval(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927); (0, 1) where nothing was tried.

    Raises ValueError for counts that are none.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    rate, square = successes / n, z * z
    middle = rate + square / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    low, high = ((middle + side * half) / (1 + square / n) for side in (-1, 1))
    # Rounding must not leave 0 of n above 0, or n of n below 1.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p of McNemar's exact test, from the numbers of discordant pairs.

    2 P(X <= the smaller one), X ~ Binomial(discordant pairs, 1/2), at most 1; 1 without any.
    """
    if min(only_first, only_second) < 0:
        raise ValueError("numbers of pairs are not negative")
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    # Integers of any size: the quotient of two is rounded once.
    return min(1.0, 2 * tail / 2**n)


@dataclass(frozen=True)
class Paired:
    """A method against a baseline on the same initial states.

    difference: success rate of the method minus that of the baseline. ci95: adjusted Wald interval
    of it (Agresti and Min 2005). p: McNemar's exact test. gained, lost: pairs in which only the
    method, and only the baseline, succeeded.
    """

    n: int
    difference: float
    ci95: tuple[float, float]
    p: float
    gained: int
    lost: int


def paired_difference(method: Sequence[bool], baseline: Sequence[bool]) -> Paired:
    """Compare outcomes pair by pair. Raises ValueError for different or zero lengths."""
    if len(method) != len(baseline) or not method:
        raise ValueError(f"{len(method)} and {len(baseline)} outcomes are not pairs")
    n = len(method)
    gained = sum(m and not b for m, b in zip(method, baseline))
    lost = sum(b and not m for m, b in zip(method, baseline))
    # Half a pair is added to each of the four cells of the table.
    gain, loss, total = gained + 0.5, lost + 0.5, n + 2
    middle = (gain - loss) / total
    half = Z95 * math.sqrt(gain + loss - (gain - loss) ** 2 / total) / total
    interval = max(-1.0, middle - half), min(1.0, middle + half)
    return Paired(n, (gained - lost) / n, interval, mcnemar_exact(gained, lost), gained, lost)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, value) that no other beats in one and equals in the other, by cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front, best = [], -math.inf
    for index in order:
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front
