"""What vla_node does with its inputs once it is configured; the node itself is the ROS shell.

The executor's thread only checks and stores what comes in; one inference thread takes the newest
observation and runs the policy. What both touch is guarded by one lock.
"""
from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sensor_msgs.msg import CompressedImage, Image, JointState

from ..robot.guard import Verdict
from ..types import ActionChunk
from .arm_state import JointReading
from .conversions import check_image, stamp_to_ns
from .faults import FaultBook, FaultCode
from .inference import InferenceThread
from .loading import uses_proprio
from .messages import Published
from .planner import JOINT_STATES, Job, QueryPlanner, camera_input
from .query import Outcome, Policy, QueryRunner
from .responder import Callbacks, Responder
from .shadow import Shadow
from .vla_parameters import VlaSettings

_DESCRIPTION = "robot_description"


@dataclass
class Counters:
    """Since the node was configured."""

    queries: int = 0
    images_received: int = 0
    joint_states_received: int = 0


class Engine:
    """Collects inputs, runs queries in a thread of its own, keeps count of what goes wrong.

    Every method may be called from any thread. ``lock`` is shared with whoever reads the faults.
    """

    def __init__(self, policy: Policy, settings: VlaSettings, faults: FaultBook,
                 lock: threading.Condition, callbacks: Callbacks) -> None:
        """Start the thread; it is idle until :meth:`activate`.

        Raises:
            ConfigurationError: settings and policy do not fit.
        """
        self.counters = Counters()
        self._policy = policy
        self.planner = QueryPlanner(settings, uses_proprio(settings, policy))
        self.responder = Responder(self.planner, faults, callbacks)
        self._faults = faults
        self._lock = lock
        self._callbacks = callbacks
        self._runner = QueryRunner(policy, settings, self._judge, self._in_time)
        self.shadow = Shadow(self._runner, callbacks.warn)
        self._active = False
        self._asked = self._looked = 0  # see settled()
        self._thread = InferenceThread(lock, self._next_job, self._run)

    @property
    def active(self) -> bool:
        """Whether queries are made."""
        return self._active

    # --- control -------------------------------------------------------------------------------

    def activate(self) -> None:
        """Start to query, in a new episode."""
        with self._lock:
            self._active = True
            self.responder.safety.stop()
            self.planner.restart()
            self._lock.notify_all()

    def deactivate(self) -> None:
        """Stop to query, with a hold as the last chunk; what a running query gives is dropped."""
        with self._lock:
            if self._active:
                self.responder.hold("deactivated")
            self._active = False
            self.responder.safety.stop()

    def stop(self, timeout: float) -> bool:
        """End the thread and let go of the policy; returns whether a running query ended within
        ``timeout`` seconds. The engine cannot be used again."""
        self.deactivate()
        ended = self._thread.stop(timeout)
        # ROS may keep subscriptions, and with them this object, for a while.
        del self._policy, self._runner, self.shadow
        return ended

    def wake(self) -> None:
        """Look again whether there is something to do, or something overdue (time has passed)."""
        with self._lock:
            if self._active:
                self.responder.watch()
            self._lock.notify_all()

    def apply(self, settings: VlaSettings) -> None:
        """Use other settings from the next query on; raises ConfigurationError as a veto."""
        with self._lock:
            uses_proprio(settings, self._policy)
            if settings["dry_run"] and not self.planner.settings["dry_run"] and self._active:
                self.responder.hold("dry_run is on from now on")
            self.planner.apply(settings)
            if self.planner.arm.trouble:
                self._faults.raise_fault(FaultCode.ROBOT_DESCRIPTION, _DESCRIPTION,
                                         self.planner.arm.trouble)
            else:
                self._faults.clear(FaultCode.ROBOT_DESCRIPTION)
            self._lock.notify_all()

    def reset_episode(self) -> tuple[int, int]:
        """Start a new episode; its number, and the time (ns) from which on inputs count for it."""
        with self._lock:
            if self._active and self.responder.safety.moving:
                self.responder.hold("a new episode begins")
            now = self._callbacks.now()
            self.planner.reset(now)
            self._callbacks.changed()
            return self.planner.episode, now

    def clear_fault(self) -> str:
        """End a latched fault and start a new episode; returns what was latched, or ""."""
        with self._lock:
            reason = self.responder.clear_fault()
            if reason:
                self.planner.reset(self._callbacks.now())
            self._lock.notify_all()
            self._callbacks.changed()
            return reason

    def time_jumped(self, backward: bool, another_clock: bool = False) -> bool:
        """Take note that the ROS clock was set, or is another one from now on (use_sim_time was
        changed); returns whether a new episode started."""
        with self._lock:
            now = self._callbacks.now()
            if self._active and self.responder.safety.moving:
                self.responder.hold("the clock was set")
            if another_clock:
                began = self.planner.clock_changed()
                self.responder.safety.time_went_back(now)
            elif backward:
                began = self.planner.time_went_back(now)
                self.responder.safety.time_went_back(now)
            else:
                began = self.planner.time_went_forward()
            self._lock.notify_all()
            self._callbacks.changed()
            return began

    def settled(self, timeout: float) -> bool:
        """Whether within ``timeout`` seconds everything that came in so far has been dealt with.

        Then no query runs, and none begins before another input, or time, makes it due; what is
        overdue at this time has had its hold.
        """
        with self._lock:
            self._asked += 1
            asked = self._asked
            self._lock.notify_all()
            settled = self._lock.wait_for(lambda: self._looked >= asked, timeout)
            if settled and self._active:
                self.responder.watch()
            return settled

    def progress(self) -> dict[str, int]:
        """The counters, and the episode."""
        with self._lock:
            return {"episode": self.planner.episode, "chunks": self.responder.chunks,
                    **vars(self.counters), **vars(self.responder.safety.counters)}

    # --- inputs --------------------------------------------------------------------------------

    def on_image(self, camera: str, msg: Image | CompressedImage) -> None:
        """Take a picture. A raw one is checked now; decoding is left to the inference thread."""
        name = camera_input(camera)
        with self._guarded(FaultCode.IMAGE, name):
            stamp = stamp_to_ns(msg.header.stamp)
            self.counters.images_received += 1
            self.planner.check_stamp(stamp, self._callbacks.now())
            self.planner.note(name, stamp)
            if isinstance(msg, Image):
                check_image(msg)
            self.planner.add_image(camera, stamp, msg)

    def on_joint_states(self, msg: JointState) -> None:
        """Take a joint state."""
        with self._guarded(FaultCode.JOINT_STATE, JOINT_STATES):
            stamp = stamp_to_ns(msg.header.stamp)
            self.counters.joint_states_received += 1
            self.planner.check_stamp(stamp, self._callbacks.now())
            self.planner.note(JOINT_STATES, stamp)
            self.planner.add_joints(JointReading(stamp, msg.name, msg.position, msg.velocity))

    def on_instruction(self, text: str) -> None:
        """Take the task."""
        with self._guarded(FaultCode.INSTRUCTION, "instruction"):
            if self.planner.set_instruction(text):
                self._callbacks.changed()

    def on_description(self, urdf: str) -> None:
        """Take a robot description."""
        with self._guarded(FaultCode.ROBOT_DESCRIPTION, _DESCRIPTION):
            self.planner.arm.describe(urdf)

    @contextmanager
    def _guarded(self, code: FaultCode, source: str) -> Iterator[None]:
        """Hold the lock; an error in the body is a fault, and success ends it."""
        with self._lock:
            try:
                yield
            except Exception as error:
                self.responder.fail(code, source, error)
            else:
                self._faults.clear(code, source)
            self._lock.notify_all()

    # --- inference thread ----------------------------------------------------------------------

    def _next_job(self) -> Job | None:
        job = self._planned()
        if job is None and self._looked != self._asked:
            self._looked = self._asked
            self._lock.notify_all()
        return job

    def _planned(self) -> Job | None:
        if not self._active or self.responder.safety.latch.reason:
            return None
        try:
            job = self.planner.next_job(self._callbacks.now())
        except Exception as error:  # the thread must live on
            self.responder.fail(FaultCode.INFERENCE, "planner", error)
            return None
        if job is not None and job.query is not None:
            self.responder.query_since = self._callbacks.now()
        return job

    def _judge(self, job: Job, chunk: ActionChunk) -> Verdict:
        with self._lock:
            return self.responder.judge(job, chunk)

    def _in_time(self, job: Job) -> bool:
        with self._lock:
            return self.responder.in_time(job)

    def _run(self, job: Job) -> None:
        outcome = self._runner.run(job)
        try:
            with self._lock:
                published = self._finish(job, outcome)
                self._callbacks.changed()
            if published is not None:
                self._callbacks.publish_stats(self.shadow.compare(published))
        except Exception as error:  # the thread must live on
            with self._lock:
                self.responder.fail(FaultCode.INFERENCE, "answer", error)
                self._callbacks.changed()

    def _finish(self, job: Job, outcome: Outcome) -> Published | None:
        self.responder.query_since = None
        wanted, now = self._wanted(job), self._callbacks.now()
        if wanted:
            outcome = self.responder.judged_again(job, outcome, now)
        success = not outcome.errors or outcome.result is not None
        self.planner.finished(job, success, outcome.replan)
        if job.query is not None:
            self.counters.queries += 1
        published = self.responder.answer(job, outcome, wanted, now)
        if published is not None:
            self._runner.commit(published.result)
        return published

    def _wanted(self, job: Job) -> bool:
        """Whether the node is still where it was when the query began."""
        return (self._active and not self.responder.safety.latch.reason
                and job.episode == self.planner.episode
                and job.instruction == self.planner.instruction)
