"""Watches over what must not stay away: hold first, then latch."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Alarm(IntEnum):
    """FINE: nothing to do. HOLD: stop to move, once. LATCH: and do not start again by yourself."""

    FINE = 0
    HOLD = 1
    LATCH = 2


@dataclass
class Watchdog:
    """Turns problems that persist into alarms. Times are seconds on one clock.

    It watches from :meth:`arm` on: before anything has moved there is nothing to stop.
    """

    armed: bool = False
    problem_since: float | None = None

    def arm(self) -> None:
        """Something is to move from now on."""
        self.armed = True

    def disarm(self) -> None:
        """Nothing is to move: no alarms until :meth:`arm`."""
        self.armed = False
        self.problem_since = None

    def check(self, now: float, problems: Sequence[str], latch_after: float) -> Alarm:
        """What to do about the problems at hand.

        HOLD is given when they begin, LATCH once they have lasted ``latch_after`` seconds; each
        once. A clock that was set back starts the count anew.
        """
        if not self.armed:
            return Alarm.FINE
        if not problems:
            self.problem_since = None
            return Alarm.FINE
        if self.problem_since is None:
            self.problem_since = now
            return Alarm.HOLD
        self.problem_since = min(self.problem_since, now)
        if now - self.problem_since >= latch_after:
            self.disarm()
            return Alarm.LATCH
        return Alarm.FINE
