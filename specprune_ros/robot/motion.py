"""From chunks to the motion that an arm is to make in the next control period.

A row is a displacement in one control period, that is a constant velocity for that long. What is
commanded at a time is the displacement from where the last command ended to one period ahead, so
that neither jitter of the timer nor the phase between chunks and timer repeats or skips motion.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ActionError
from .chunk import NO_BLENDING, Blending, ChunkPlayer
from .guard import MOTION

NEUTRAL_GRIPPER = 0.5  # 0 close .. 1 open; in the middle: leave it as it is
_JITTER = 0.5  # control periods that a command may begin off the end of the last one


@dataclass(frozen=True)
class Motion:
    """step: [6] displacement of the tool in the axes of the base, m and rad. gripper: 0 close .. 1
    open, or NEUTRAL_GRIPPER. duration: s in which to make the step. holds: no chunk had a row."""

    step: np.ndarray
    gripper: float
    duration: float
    holds: bool


class MotionPlayer:
    """Says what to move in the next control period. Times are seconds on one clock.

    Not thread-safe. Chunks that are too old have no row for the present and cause no motion.
    """

    def __init__(self, control_period: float, blending: Blending = NO_BLENDING) -> None:
        self._player = ChunkPlayer(control_period, NEUTRAL_GRIPPER, blending)
        self._until: float | None = None  # end of what has been commanded
        self._last = -math.inf
        self._holding = True

    @property
    def control_period(self) -> float:
        return self._player.control_period

    def reset(self) -> None:
        """Forget chunks and time: another episode, or the clock was set back."""
        self._player.reset()
        self._until, self._last = None, -math.inf

    def load(self, actions: np.ndarray, unit_scale: np.ndarray, stamp: float,
             hold: bool = False) -> bool:
        """Take a chunk [C, 7] in controller units, gripper 0 close .. 1 open.

        unit_scale: [6] m and rad per controller unit. hold: end the motion of earlier chunks at
        once. Returns False for a chunk that is not newer than the one held. Raises ActionError.
        """
        scale = np.asarray(unit_scale, np.float64)
        if scale.shape != (MOTION,) or not np.isfinite(scale).all():
            raise ActionError(f"unit_scale is {np.asarray(unit_scale).tolist()}; it must be six "
                              "finite numbers")
        steps = np.array(actions, np.float64)
        if steps.ndim == 2 and steps.shape[1] == MOTION + 1:
            steps[:, :MOTION] *= scale
        return self._player.load(steps, stamp, alone=hold)

    def motion(self, now: float) -> Motion:
        """What to move from ``now`` to one control period later."""
        period = self.control_period
        if now < self._last:  # time was set back, and nobody said so
            self.reset()
        self._last = now
        start = now
        if self._until is not None and abs(now - self._until) <= _JITTER * period:
            start = self._until
        elif self._until is not None and now < self._until:
            return Motion(np.zeros(MOTION), self._gripper(), period, self._holding)
        self._until = now + period
        step, covered = self._displacement(start, now + period)
        self._holding = not covered
        return Motion(step, self._gripper(), period, self._holding)

    def _gripper(self) -> float:
        return float(self._player.hold_action()[MOTION])

    def _displacement(self, start: float, end: float) -> tuple[np.ndarray, bool]:
        """Displacement [6] from start to end, and whether any row covered a part of it."""
        step, covered = np.zeros(MOTION), False
        stamp, period = self._player.stamp, self.control_period
        if stamp is None:
            return step, covered
        first = math.floor((start - stamp) / period)
        inner = [stamp + k * period for k in range(first, first + 4)]
        edges = [start, *(t for t in inner if start < t < end), end]
        for begin, finish in zip(edges, edges[1:]):
            row = self._player.play(math.floor((0.5 * (begin + finish) - stamp) / period))
            if row is not None:
                step += row[:MOTION] * (finish - begin) / period
                covered = True
        return step, covered
