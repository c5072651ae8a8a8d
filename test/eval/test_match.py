"""Setting a knob to a share of FLOPs."""
from __future__ import annotations

import math

import pytest

from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.match import TOLERANCE, match_knob, parse_targets


class Counted:
    def __init__(self, function):
        self.function, self.asked = function, []

    def __call__(self, knob):
        self.asked.append(knob)
        return self.function(knob)


CURVES = {
    "straight": lambda k: 0.1 + 0.85 * k,
    "saturating": lambda k: 0.2 + 0.8 * (1 - math.exp(-4 * k)),
    "steps": lambda k: 0.15 + 0.85 * math.floor(k * 128) / 128,
    "late": lambda k: 0.1 + 0.9 * k**4,
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("target", [0.75, 0.6, 0.5, 0.4])
def test_every_curve_is_matched_with_few_runs(name, target):
    ratio = Counted(CURVES[name])
    match = match_knob(target, 0.01, 1.0, ratio)
    assert match.reached and abs(match.ratio - target) <= TOLERANCE
    assert match.ratio == CURVES[name](match.knob)
    assert len(ratio.asked) <= 9 and len(set(ratio.asked)) == len(ratio.asked)


def test_runs_for_one_target_help_the_next():
    ratio, known = Counted(CURVES["saturating"]), {}
    matches = [match_knob(t, 0.02, 8.0, ratio, known) for t in (0.75, 0.6, 0.5, 0.4)]
    assert all(m.reached for m in matches)
    assert [m.knob for m in matches] == sorted((m.knob for m in matches), reverse=True)
    assert len(ratio.asked) == len(known) <= 24
    assert match_knob(0.6, 0.02, 8.0, Counted(None), known) == matches[1]  # asks nothing


@pytest.mark.parametrize("target, nearest", [(0.2, 0.5), (0.95, 0.9)])
def test_a_target_out_of_reach_is_said_to_be(target, nearest):
    match = match_knob(target, 0.01, 1.0, lambda k: 0.5 + 0.4 * k)
    assert not match.reached and match.ratio == pytest.approx(nearest, abs=0.02)


def test_a_step_over_the_target_gives_the_nearer_side():
    match = match_knob(0.5, 0.01, 1.0, lambda k: 0.3 if k < 0.37 else 0.55)
    assert match.ratio == 0.55 and not match.reached


def test_targets():
    assert parse_targets("0.4,0.75, 0.4") == [0.75, 0.4]
    for wrong in ("1.0", "0.5,0", "half", ""):
        with pytest.raises(ConfigurationError, match="--match-flops"):
            parse_targets(wrong)
