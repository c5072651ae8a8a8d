"""What becomes of a query: a chunk that is published, a hold, a fault, a latch.

Everything here is called with the engine's lock held. Stamps and times are ns on the ROS clock.
"""
from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigurationError, MethodUnavailable, ObservationError, SpecpruneError
from ..robot.guard import Verdict
from ..robot.watchdog import Alarm
from ..types import ActionChunk
from .faults import FaultBook, FaultCode
from .messages import Hold, Published
from .planner import Job, QueryPlanner, camera_input
from .query import CameraError, Outcome, QueryResult, RefusedChunk, Source
from .safety import Safety

POLICY = "policy"
LATCHED = "latched"
WATCHDOG = "watchdog"
_DECODING = "decoding"  # of pictures, in the inference thread


@dataclass(frozen=True)
class Callbacks:
    """What is asked of the node. All but publish_stats are called with the lock held.

    now: ns on the ROS clock. publish: of a chunk. publish_stats: of that chunk, later, by the
    inference thread. hold: of a hold chunk. changed: the status may be another now. warn,
    log_error: of a text.
    """

    now: Callable[[], int]
    publish: Callable[[QueryResult], None]
    publish_stats: Callable[[Published], None]
    hold: Callable[[Hold], None]
    changed: Callable[[], None]
    warn: Callable[[str], None]
    log_error: Callable[[str], None]


class Responder:
    """Turns outcomes and alarms into publications and faults."""

    def __init__(self, planner: QueryPlanner, faults: FaultBook, callbacks: Callbacks) -> None:
        self.safety = Safety(planner)
        self.query_since: int | None = None  # when the running query began
        self.chunks = 0  # of the policy, published
        self._planner = planner
        self._faults = faults
        self._callbacks = callbacks

    # --- the running query ---------------------------------------------------------------------

    def judge(self, job: Job, chunk: ActionChunk) -> Verdict:
        """The verdict of the guard, and of the deadline, on a chunk."""
        if not self.in_time(job):
            deadline = job.settings["watchdog.inference_deadline"]
            return Verdict(None, "stale", f"the query took longer than "
                           f"watchdog.inference_deadline ({deadline} s)")
        return self.safety.judge(job, chunk, self._callbacks.now())

    def judged_again(self, job: Job, outcome: Outcome, now: int) -> Outcome:
        """An outcome whose chunk the guard still passes, or one of an error in its place.

        The clock, the arm or a limit may have moved on since the chunk was judged: what is
        published is judged at the time of its publication, without letting go of the lock.
        """
        if outcome.result is None:
            return outcome
        verdict = self.safety.judge(job, outcome.result.chunk, now)
        if verdict.accepted:
            return outcome
        refused = RefusedChunk(verdict.rule, verdict.reason)
        return Outcome(errors=(*outcome.errors, refused), replan=outcome.replan)

    def in_time(self, job: Job) -> bool:
        """Whether the deadline of the running query lies ahead."""
        since = self.query_since
        elapsed = self._callbacks.now() - since if since is not None else 0
        return elapsed <= job.settings["watchdog.inference_deadline"] * 1e9

    def answer(self, job: Job, outcome: Outcome, wanted: bool, now: int) -> Published | None:
        """Publish what a query gave, or a hold in its place; returns what was published.

        ``wanted``: whether the node still is where it was when the query began. ``now``: the time
        at which the guard judged; the clock itself may be set at any moment, by another thread.
        """
        result = outcome.result
        if result is None and outcome.errors:
            self._note_failure(job, outcome, wanted)
            return None
        self._note_success(job)
        if result is None or not wanted:
            return None
        if result.source is Source.DENSE and outcome.errors:
            self.safety.counters.dense_fallbacks += 1
            self._callbacks.warn(f"dense in the place of pruned: {outcome.errors[0]}")
        self._callbacks.publish(result)
        self.chunks += 1
        return Published(result, now, self.safety.published(job, result.chunk.actions, now))

    # --- hold and latch ------------------------------------------------------------------------

    def hold(self, why: str, stamp: int | None = None) -> None:
        """Publish a hold chunk, of now or of the stamp of an observation that has no answer."""
        now, planner = self._callbacks.now(), self._planner
        stamp = now if stamp is None else stamp
        actions = self.safety.hold(stamp, planner.episode, now)
        self._callbacks.hold(Hold(stamp, actions, planner.instruction, planner.episode,
                                  planner.settings, why))

    def watch(self) -> None:
        """Look for what is overdue; hold, then latch. To be called several times a second."""
        now = self._callbacks.now()
        missing, overdue = self.safety.problems(now, self.query_since)
        alarm = self.safety.check(now, missing + overdue)
        if overdue:
            self._faults.raise_fault(FaultCode.TIMEOUT, WATCHDOG, "; ".join(overdue))
        else:
            self._faults.clear(FaultCode.TIMEOUT, WATCHDOG)
        if alarm is Alarm.HOLD:
            self.hold("; ".join(missing + overdue))
        elif alarm is Alarm.LATCH:
            self.latch(FaultCode.TIMEOUT, "; ".join(missing + overdue))

    def latch(self, code: FaultCode, reason: str) -> None:
        """Stop until somebody clears the fault."""
        self.safety.latch.trip(reason)
        self.hold(f"latched: {reason}")
        self.safety.stop()
        self._faults.clear(FaultCode.TIMEOUT, WATCHDOG)
        self._faults.raise_fault(code, LATCHED, f"{self.safety.latch.reason}. Nothing moves until "
                                 "the service ~/clear_fault is called")

    def clear_fault(self) -> str:
        """Unlatch; returns what was latched."""
        reason = self.safety.latch.clear()
        for code in (FaultCode.GUARD, FaultCode.INFERENCE, FaultCode.TIMEOUT):
            self._faults.clear(code)
        return reason

    # --- faults --------------------------------------------------------------------------------

    def fail(self, code: FaultCode, source: str, error: Exception) -> None:
        """Note an error as a fault; one that nobody foresaw is logged with its traceback."""
        expected = isinstance(error, SpecpruneError)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        if self._faults.raise_fault(code, source, text) and not expected:
            self._callbacks.log_error("".join(traceback.format_exception(
                type(error), error, error.__traceback__)))

    def _note_failure(self, job: Job, outcome: Outcome, wanted: bool) -> None:
        error = outcome.errors[-1]
        code, source = FaultCode.INFERENCE, POLICY
        if isinstance(error, CameraError):
            code, source = FaultCode.IMAGE, f"{camera_input(error.camera)} ({_DECODING})"
        elif isinstance(error, (ConfigurationError, MethodUnavailable)):
            code = FaultCode.CONFIGURATION
        elif isinstance(error, RefusedChunk):
            code = FaultCode.GUARD
        # Inputs and settings are mended by whoever sends them; what the policy makes of good ones
        # does not become better by trying for ever.
        counts = code in (FaultCode.GUARD, FaultCode.INFERENCE) and not isinstance(
            error, ObservationError)
        self.fail(code, source, error)
        if job.query is None or not wanted:
            return
        self.safety.counters.failures += 1
        if counts and self.safety.latch.fail(str(error), job.settings["guard.latch_after"]):
            self.latch(code, self.safety.latch.reason)
        else:
            self.hold(f"no answer to the observation: {error}", job.query.stamp)

    def _note_success(self, job: Job) -> None:
        for camera in self._planner.sync.cameras:
            self._faults.clear(FaultCode.IMAGE, f"{camera_input(camera)} ({_DECODING})")
        self._faults.clear(FaultCode.CONFIGURATION, POLICY)
        if job.query is not None:
            self._faults.clear(FaultCode.INFERENCE)
            self._faults.clear(FaultCode.GUARD)
