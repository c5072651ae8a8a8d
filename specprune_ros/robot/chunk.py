"""Plays chunks of actions, one row per control period: in lockstep or by the clock."""
from __future__ import annotations

import math

import numpy as np

from ..errors import ActionError, ConfigurationError
from .gripper import OPEN, check_actions

# A row starts this part of a period early, so that rounding in stamps does not repeat a row.
STAMP_TOLERANCE = 1e-3


class ChunkPlayer:
    """Holds the newest chunk and says which row to play.

    Rows are in the convention of whoever plays them; for LIBERO's, convert the gripper first
    (:func:`specprune_ros.robot.gripper.to_env_actions`). Row k is meant for the time from
    stamp + k*dt to stamp + (k+1)*dt. :meth:`next_row` plays every row in turn; :meth:`row_at`
    plays the row of the present time, so that rows which arrive too late are never played.
    Stamps and times share one clock. Not thread-safe.
    """

    def __init__(self, control_period: float, gripper: float = OPEN) -> None:
        """``control_period`` in seconds; ``gripper``: command held before the first chunk."""
        if not (math.isfinite(control_period) and control_period > 0):
            raise ConfigurationError(f"control_period is {control_period}; it must be positive")
        self.control_period = float(control_period)
        self._first_gripper = float(gripper)
        self.reset()

    def reset(self) -> None:
        """Drop the chunk and the gripper command of the last episode."""
        self._actions: np.ndarray | None = None
        self._stamp = -math.inf
        self._next = 0
        self._gripper = self._first_gripper

    @property
    def stamp(self) -> float | None:
        """Stamp of the chunk in play (s), None before the first."""
        return None if self._actions is None else self._stamp

    @property
    def rows_left(self) -> int:
        """Rows of the chunk that come after the one played last."""
        return 0 if self._actions is None else len(self._actions) - self._next

    def load(self, actions: np.ndarray, stamp: float, dt: float | None = None) -> bool:
        """Take a chunk [C, 7] computed from the observation of ``stamp`` (s).

        A chunk that is not newer than the one held is ignored and False returned. Raises
        ActionError for a shape other than [C, 7], values or a stamp that are not finite, and a
        ``dt`` that is not the control period.
        """
        if not math.isfinite(stamp):
            raise ActionError(f"action chunk: stamp is {stamp}")
        if dt is not None and not math.isclose(dt, self.control_period, rel_tol=1e-3):
            raise ActionError(
                f"action chunk: dt is {dt} s, the control period here is {self.control_period} s"
            )
        rows = check_actions(actions, "action chunk").copy()
        if stamp <= self._stamp:
            return False
        self._actions, self._stamp, self._next = rows, float(stamp), 0
        return True

    def next_row(self) -> np.ndarray | None:
        """The next row [7] in turn, None once the chunk is exhausted: then hold."""
        return self._play(self._next)

    def row_at(self, time: float) -> np.ndarray | None:
        """The row [7] that ``time`` (s) falls into, None before the first or after the last."""
        if self._actions is None:
            return None
        periods = (time - self._stamp) / self.control_period
        return self._play(math.floor(periods + STAMP_TOLERANCE))

    def hold_action(self) -> np.ndarray:
        """No motion, the gripper as last commanded: [7]."""
        return np.array([0.0] * 6 + [self._gripper])

    def _play(self, row: int) -> np.ndarray | None:
        if self._actions is None or not 0 <= row < len(self._actions):
            return None
        self._next = row + 1
        self._gripper = float(self._actions[row, 6])
        return self._actions[row].copy()
