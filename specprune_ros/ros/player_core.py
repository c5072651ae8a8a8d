"""When chunk_player_node moves, holds and stops. Plain Python; the node is the ROS shell.

Moves as long as there is a row for the present and nothing speaks against it. Otherwise it holds
(no row: the next chunk is late), or stops (a fault): what moves the arm gets one last command to
stand still, and then nothing until the fault is over.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from specprune_ros.msg import ActionChunk, VlaStatus

from ..errors import ActionError
from ..robot.guard import Latch
from ..robot.joint_motion import ArmAstray, MotionRefused
from ..robot.motion import Motion, MotionPlayer
from .conversions import NANOSECONDS
from .player_chunks import arm_chunk
from .player_parameters import PlayerSettings

REFUSED = "chunk refused"  # how a report of one begins
HOLD_FOR = 1.0  # s that holding is commanded; then whatever moves the arm holds by itself
_STATES = {VlaStatus.UNCONFIGURED: "unconfigured", VlaStatus.INACTIVE: "inactive"}


class State(Enum):
    """IDLE: nothing to play, nothing is commanded."""

    IDLE = "idle"
    MOVING = "moving"
    HOLDING = "holding"
    STOPPED = "stopped"


@dataclass
class PlayerCounters:
    """Since the node was started."""

    chunks: int = 0
    rejected: int = 0
    moves: int = 0
    holds: int = 0
    refused: int = 0
    stops: int = 0


class Output:
    """Where commands go; this one sends none. ``move`` may raise MotionRefused; the others do not
    raise."""

    needs_joints = False

    def apply(self, settings: PlayerSettings) -> None:
        """Use other settings."""

    def trouble(self, now: int) -> str:
        """Why nothing can be commanded at a time (ns), or ""."""
        return ""

    def move(self, motion: Motion, now: int) -> None: ...

    def hold(self, motion: Motion, now: int) -> None: ...

    def stop(self, now: int) -> None: ...

    def forget(self) -> None:
        """The next motion starts from where the arm is."""

    def flush(self) -> None:
        """Wait until what was sent has arrived, but not for ever."""


class PlayerCore:
    """The state of the player. Times: ns on the ROS clock, and wall seconds for vla_status."""

    def __init__(self, settings: PlayerSettings, output: Output,
                 report: Callable[[str], None]) -> None:
        """``report``: told of each change of the state, and of chunks that are refused."""
        self.settings = settings
        self.state = State.IDLE
        self.why = ""
        self.counters = PlayerCounters()
        self.latch = Latch()
        self._output = output
        self._report = report
        self._player = MotionPlayer(settings["control_period"], settings.blending())
        self._status: VlaStatus | None = None
        self._status_at = -math.inf
        self._held_since = 0
        self.last_rejection = ""  # of a chunk
        self._rejection = ""  # the same, until a good one comes

    def apply(self, settings: PlayerSettings) -> None:
        """Use other settings; what is blended starts anew if its kind changes."""
        if settings.blending() != self.settings.blending():
            self._player = MotionPlayer(settings["control_period"], settings.blending())
        self.settings = settings

    def reset(self) -> None:
        """The clock was set: forget chunks, and where the arm was sent."""
        self._player.reset()
        self._output.forget()

    # --- inputs --------------------------------------------------------------------------------

    def on_chunk(self, message: ActionChunk, now: int) -> None:
        """Take a chunk, or refuse it with a reason."""
        try:
            chunk = arm_chunk(message, now, self.settings)
            taken = self._player.load(chunk.actions, chunk.unit_scale, chunk.stamp, chunk.hold)
        except ActionError as error:
            self.counters.rejected += 1
            if str(error) != self._rejection:  # the same defect is reported once in a row
                self._rejection = self.last_rejection = str(error)
                self._report(f"{REFUSED} ({self.counters.rejected} so far): {error}")
            return
        self._rejection = ""
        self.counters.chunks += taken

    def on_status(self, message: VlaStatus, wall: float) -> None:
        """Take the state of vla_node."""
        self._status, self._status_at = message, wall

    # --- commands ------------------------------------------------------------------------------

    def tick(self, now: int, wall: float) -> None:
        """Command what the time asks for; to be called once per control period."""
        motion = self._player.motion(now / NANOSECONDS)
        why = self._fault(now, wall)
        if why:
            self._stop(why, now)
        elif motion.holds:
            self._hold("no row for the present: the next chunk is late", motion, now)
        else:
            self._move(motion, now)

    def stop(self, why: str, now: int) -> None:
        """Stop, and stay so until :meth:`clear_fault`."""
        self.latch.trip(why)
        self._stop(why, now)

    def clear_fault(self) -> str:
        """End a latched fault; what was received before is not played. Returns the fault."""
        self._player.reset()
        return self.latch.clear()

    def _fault(self, now: int, wall: float) -> str:
        """Why nothing may move, or ""."""
        if self.latch.reason:
            return f"latched: {self.latch.reason}. Call ~/clear_fault"
        timeout = self.settings["status_timeout"]
        if self._status is None:
            return "no vla_status has come yet"
        if wall - self._status_at > timeout:
            return f"vla_node is silent for more than status_timeout ({timeout:g} s)"
        if self._status.latched:
            return "the fault of vla_node is latched"
        if self._status.state in _STATES:
            return f"vla_node is {_STATES[self._status.state]}"
        return self._output.trouble(now)

    def _move(self, motion: Motion, now: int) -> None:
        if self.state in (State.IDLE, State.STOPPED):
            self._output.forget()
        try:
            self._output.move(motion, now)
        except MotionRefused as refused:
            self.counters.refused += 1
            if isinstance(refused, ArmAstray):
                self.stop(str(refused), now)
            elif self.latch.fail(str(refused), self.settings["latch_after"]):
                self._stop(self.latch.reason, now)
            else:
                self._hold(str(refused), motion, now)
            return
        self.latch.succeed()
        self.counters.moves += 1
        self._enter(State.MOVING, "")

    def _hold(self, why: str, motion: Motion, now: int) -> None:
        if self.state in (State.IDLE, State.STOPPED):
            self._enter(State.IDLE, why if self.state is State.IDLE else "")
            return
        if self.state is not State.HOLDING:
            self._held_since = now
        self._enter(State.HOLDING, why)
        self.counters.holds += 1
        self._output.hold(motion, now)
        if not 0 <= now - self._held_since < HOLD_FOR * NANOSECONDS:
            self._enter(State.IDLE, "nothing to play")

    def _stop(self, why: str, now: int) -> None:
        if self.state in (State.MOVING, State.HOLDING):
            self.counters.stops += 1
            self._output.stop(now)
        self._enter(State.STOPPED, why)

    def _enter(self, state: State, why: str) -> None:
        if state is not self.state:
            self._report(state.value + (f": {why}" if why else ""))
        self.state, self.why = state, why
