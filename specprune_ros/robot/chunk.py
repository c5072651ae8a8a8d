"""Plays chunks of actions, one row per control period: in lockstep or by the clock."""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from ..errors import ActionError, ConfigurationError
from .gripper import OPEN, check_actions

# A row starts this part of a period early, so that rounding in stamps does not repeat a row.
STAMP_TOLERANCE = 1e-3
_MOST_CHUNKS = 32  # that overlap; only senders that repeat themselves have more


@dataclass(frozen=True)
class Blending:
    """How the rows of chunks that overlap in time become one motion.

    ensemble: None plays the newest chunk alone. A number m averages the rows that all chunks have
        for the time, with weights exp(-m * i), i = 0 for the oldest (temporal ensembling of ACT,
        arXiv 2304.13705, algorithm 2; its m is 0.01).
    fade: rows over which a new chunk is faded in, linearly, from the one before it (from standing
        still where that is over); 0 switches at once.

    Only motion is blended. The gripper's command is a decision: it is that of the newest chunk.
    """

    ensemble: float | None = None
    fade: int = 0

    def __post_init__(self) -> None:
        if self.ensemble is not None and not (math.isfinite(self.ensemble) and self.ensemble >= 0):
            raise ConfigurationError(f"the ensemble's decay is {self.ensemble}; it must be >= 0")
        if self.fade < 0:
            raise ConfigurationError(f"fade is {self.fade}; it must not be negative")
        if self.ensemble is not None and self.fade:
            raise ConfigurationError("ensembling and fading are both on; choose one")


NO_BLENDING = Blending()


@dataclass(frozen=True)
class _Chunk:
    stamp: float
    actions: np.ndarray  # [C, 7]

    def row(self, time: float, period: float) -> int:
        """The row that a time falls into; it may be before the first or after the last."""
        return math.floor((time - self.stamp) / period + STAMP_TOLERANCE)

    def motion(self, time: float, period: float) -> np.ndarray | None:
        """Motion [6] of that row, None where there is none."""
        row = self.row(time, period)
        return self.actions[row, :6] if 0 <= row < len(self.actions) else None


class ChunkPlayer:
    """Holds the newest chunk and says which row to play.

    Rows are in the convention of whoever plays them; for LIBERO's, convert the gripper first
    (:func:`specprune_ros.robot.gripper.to_env_actions`). Row k is meant for the time from
    stamp + k*dt to stamp + (k+1)*dt. :meth:`next_row` plays every row in turn; :meth:`row_at`
    plays the row of the present time, so that rows which arrive too late are never played.
    Stamps and times share one clock. Not thread-safe.
    """

    def __init__(self, control_period: float, gripper: float = OPEN,
                 blending: Blending = NO_BLENDING) -> None:
        """``control_period`` in seconds; ``gripper``: command held before the first chunk."""
        if not (math.isfinite(control_period) and control_period > 0):
            raise ConfigurationError(f"control_period is {control_period}; it must be positive")
        self.control_period = float(control_period)
        self.blending = blending
        self._first_gripper = float(gripper)
        self.reset()

    def reset(self) -> None:
        """Drop the chunks and the gripper command of the last episode."""
        self._chunks: deque[_Chunk] = deque(maxlen=_MOST_CHUNKS)  # the newest last
        self._next = 0
        self._first: int | None = None  # the first row played of the newest chunk
        self._gripper = self._first_gripper

    @property
    def stamp(self) -> float | None:
        """Stamp of the chunk in play (s), None before the first."""
        return self._chunks[-1].stamp if self._chunks else None

    @property
    def rows_left(self) -> int:
        """Rows of the chunk that come after the one played last."""
        return len(self._chunks[-1].actions) - self._next if self._chunks else 0

    def load(self, actions: np.ndarray, stamp: float, dt: float | None = None,
             alone: bool = False) -> bool:
        """Take a chunk [C, 7] computed from the observation of ``stamp`` (s).

        ``alone``: drop what came before, so that nothing of it is blended in (a hold). A chunk that
        is not newer than the one held is ignored and False returned. Raises ActionError for a shape
        other than [C, 7], values or a stamp that are not finite, and a ``dt`` that is not the
        control period.
        """
        if not math.isfinite(stamp):
            raise ActionError(f"action chunk: stamp is {stamp}")
        if dt is not None and not math.isclose(dt, self.control_period, rel_tol=1e-3):
            raise ActionError(
                f"action chunk: dt is {dt} s, the control period here is {self.control_period} s"
            )
        rows = check_actions(actions, "action chunk").copy()
        if self._chunks and stamp <= self._chunks[-1].stamp:
            return False
        if alone:
            self._chunks.clear()
        self._chunks.append(_Chunk(float(stamp), rows))
        self._next, self._first = 0, None
        return True

    def next_row(self) -> np.ndarray | None:
        """The next row [7] in turn, None once the chunk is exhausted: then hold."""
        return self.play(self._next)

    def row_at(self, time: float) -> np.ndarray | None:
        """The row [7] that ``time`` (s) falls into, None before the first or after the last."""
        if not self._chunks:
            return None
        return self.play(self._chunks[-1].row(time, self.control_period))

    def hold_action(self) -> np.ndarray:
        """No motion, the gripper as last commanded: [7]."""
        return np.array([0.0] * 6 + [self._gripper])

    def play(self, row: int) -> np.ndarray | None:
        """A row [7] of the newest chunk, blended, by number; None where it has no such row."""
        if not self._chunks or not 0 <= row < len(self._chunks[-1].actions):
            return None
        newest = self._chunks[-1]
        self._first = row if self._first is None else min(self._first, row)
        played = newest.actions[row].copy()
        middle = newest.stamp + (row + 0.5) * self.control_period
        played[:6] = self._blended(row, middle)
        self._next = row + 1
        self._gripper = float(played[6])
        return played

    def _blended(self, row: int, time: float) -> np.ndarray:
        """Motion [6] at a time in the middle of a row of the newest chunk."""
        newest = self._chunks[-1].actions[row, :6]
        if self.blending.ensemble is not None:
            rows = [chunk.motion(time, self.control_period) for chunk in self._chunks]
            rows = np.array([row for row in rows if row is not None])
            weights = np.exp(-self.blending.ensemble * np.arange(len(rows)))
            return weights @ rows / weights.sum()
        share = (row - self._first + 1) / (self.blending.fade + 1)
        if share >= 1 or not self.blending.fade:
            return newest
        return share * newest + (1 - share) * self._before(time)

    def _before(self, time: float) -> np.ndarray:
        """Motion [6] of the chunk before the newest one; none where that is over."""
        if len(self._chunks) < 2:
            return np.zeros(6)
        motion = self._chunks[-2].motion(time, self.control_period)
        return np.zeros(6) if motion is None else motion
