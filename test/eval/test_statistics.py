"""Intervals and tests against published and hand-computed values."""
from __future__ import annotations

import math

import numpy as np
import pytest

from specprune_ros.eval.statistics import (
    mcnemar_exact,
    paired_difference,
    pareto_front,
    wilson_interval,
)


@pytest.mark.parametrize("successes, n, low, high", [
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
])
def test_wilson_interval_is_the_published_one(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_is_symmetric_and_closed():
    low, high = wilson_interval(29, 29)
    assert high == 1.0 and low == pytest.approx(1 - wilson_interval(0, 29)[1])
    assert wilson_interval(0, 29)[0] == 0.0
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError):
        wilson_interval(3, 2)


@pytest.mark.parametrize("b, c, p", [
    (0, 0, 1.0), (6, 6, 1.0), (0, 5, 2 / 32), (0, 1, 1.0), (1, 8, 2 * 10 / 512),
    (2, 10, 2 * (1 + 12 + 66) / 4096), (5, 4, 1.0),
])
def test_mcnemar_is_the_binomial_tail(b, c, p):
    assert mcnemar_exact(b, c) == p == mcnemar_exact(c, b)


def test_mcnemar_of_many_pairs_is_near_the_chi_square_with_continuity_correction():
    p = mcnemar_exact(3000, 3200)  # 2**6200 is beyond a float
    chi = (abs(3000 - 3200) - 1) / math.sqrt(6200)
    assert p == pytest.approx(math.erfc(chi / math.sqrt(2)), rel=1e-2)


def test_paired_difference_by_hand():
    baseline = [True] * 95 + [False] * 5
    method = [True] * 85 + [False] * 15
    found = paired_difference(method, baseline)
    assert (found.n, found.gained, found.lost) == (100, 0, 10)
    assert found.difference == pytest.approx(-0.10)
    assert found.p == 2 / 2**10
    # 0.5 in every cell: -10/102 -+ 1.96 sqrt(11 - 100/102) / 102
    assert found.ci95 == pytest.approx((-0.15887, -0.03721), abs=1e-4)
    mirrored = paired_difference(baseline, method)
    assert mirrored.ci95 == pytest.approx((0.03721, 0.15887), abs=1e-4)
    with pytest.raises(ValueError, match="not pairs"):
        paired_difference([True], [True, False])


def test_paired_interval_covers_the_truth():
    """95 % of the intervals of simulated experiments hold the true difference."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        baseline = rng.random(100) < 0.9
        method = np.where(rng.random(100) < 0.1, ~baseline, baseline)
        low, high = paired_difference(method.tolist(), baseline.tolist()).ci95
        covered += low <= 0.1 * (0.1 - 0.9) <= high
    assert 930 <= covered <= 985


def test_pareto_front_has_what_nothing_beats():
    points = [(1.0, 0.9), (0.5, 0.9), (0.5, 0.8), (0.4, 0.5), (0.45, 0.4), (0.3, 0.1)]
    assert pareto_front(points) == [5, 3, 1]
    assert pareto_front([]) == []
