"""Equal cost for every method: each one's knob is set to a share of the dense decoder's FLOPs."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from specprune_ros.errors import ConfigurationError

TOLERANCE = 0.01
_AIM = 0.005  # where the search stops: other episodes have other ratios
_MOST = 14  # runs of the calibration episodes for one target
_NARROW = 1e-3  # of the knob's range


@dataclass(frozen=True)
class Match:
    """knob: the setting nearest to the target among those tried. ratio: of FLOPs on the
    calibration episodes. reached: within TOLERANCE."""

    target: float
    knob: float
    ratio: float

    @property
    def reached(self) -> bool:
        return abs(self.ratio - self.target) <= TOLERANCE


def parse_targets(text: str) -> list[float]:
    """Ratios in (0, 1) separated by commas, largest first. Raises ConfigurationError."""
    try:
        targets = sorted({float(part) for part in text.split(",")}, reverse=True)
    except ValueError:
        raise ConfigurationError(
            f"--match-flops {text}: expected numbers, as in 0.75,0.5"
        ) from None
    if not all(0.0 < target < 1.0 for target in targets):
        raise ConfigurationError(f"--match-flops {text}: a share of dense lies between 0 and 1")
    return targets


def match_knob(
    target: float,
    low: float,
    high: float,
    ratio_at: Callable[[float], float],
    known: dict[float, float] | None = None,
) -> Match:
    """Find the knob in [low, high] at which the ratio, which rises with it, is the target.

    ``ratio_at`` plays episodes, so it is asked as rarely as possible: knobs are tried where a line
    through the ends of the bracket meets the target, and in its middle where that moves one end
    only. known: ratios that are known; those found are added to it. The ratio of closed loops may
    be a step function and not quite monotone: the nearest one that was met is returned.
    """
    known = {} if known is None else known
    ends = {-1: (low, 0.0), +1: (high, 1.0)}  # guesses, until something is known
    for knob, ratio in sorted(known.items()):
        if ratio <= target:
            ends[-1] = (knob, ratio)
    for knob, ratio in sorted(known.items(), reverse=True):
        if ratio > target and knob > ends[-1][0]:
            ends[+1] = (knob, ratio)
    moved, tried = 0, 0
    while tried < _MOST:
        best = _nearest(target, known)
        if best is not None and abs(best.ratio - target) <= _AIM:
            break
        (left, low_ratio), (right, high_ratio) = ends[-1], ends[+1]
        if right - left <= _NARROW * (high - low):
            break
        share = (target - low_ratio) / (high_ratio - low_ratio) if high_ratio > low_ratio else 0.5
        share = 0.5 if abs(moved) >= 2 else min(max(share, 0.1), 0.9)
        knob = round(left + share * (right - left), 6)
        ratio = known[knob] = ratio_at(knob)
        side = -1 if ratio <= target else +1
        ends[side] = (knob, ratio)
        # How often in a row the same end has moved, with its sign.
        moved = moved + side if moved * side > 0 else side
        tried += 1
    return _nearest(target, known)


def _nearest(target: float, known: dict[float, float]) -> Match | None:
    """Of equally near ones the smaller knob, so that the order of trying does not matter."""
    if not known:
        return None
    knob = min(known, key=lambda k: (abs(known[k] - target), k))
    return Match(target, knob, known[knob])
