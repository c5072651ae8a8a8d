"""What vla_node does with its inputs once it is configured; the node itself is the ROS shell.

The executor's thread only checks and stores what comes in; one inference thread takes the newest
observation and runs the policy. What both touch is guarded by one lock.
"""
from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sensor_msgs.msg import CompressedImage, Image, JointState

from ..errors import ConfigurationError, MethodUnavailable, SpecpruneError
from .arm_state import JointReading
from .conversions import check_image, stamp_to_ns
from .faults import FaultBook, FaultCode
from .inference import CameraError, InferenceThread, Policy, QueryResult, QueryRunner
from .loading import uses_proprio
from .planner import JOINT_STATES, Job, QueryPlanner, camera_input
from .vla_parameters import VlaSettings

_POLICY = "policy"
_DESCRIPTION = "robot_description"
_DECODING = "decoding"  # of pictures, in the inference thread


@dataclass
class Counters:
    """Since the node was configured."""

    queries: int = 0
    chunks: int = 0
    images_received: int = 0
    joint_states_received: int = 0


@dataclass(frozen=True)
class Callbacks:
    """What the engine asks of the node. All are called with the lock held, by either thread.

    now: ns on the ROS clock. publish: of a chunk. changed: the status may be another now.
    log_error: of a traceback.
    """

    now: Callable[[], int]
    publish: Callable[[QueryResult], None]
    changed: Callable[[], None]
    log_error: Callable[[str], None]


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
        self._faults = faults
        self._lock = lock
        self._callbacks = callbacks
        self._runner = QueryRunner(policy, settings)
        self._active = False
        self._asked = self._looked = 0  # see settled()
        self._thread = InferenceThread(lock, self._next_job, self._run)

    # --- control -------------------------------------------------------------------------------

    def activate(self) -> None:
        """Start to query, in a new episode."""
        with self._lock:
            self._active = True
            self.planner.restart()
            self._lock.notify_all()

    def deactivate(self) -> None:
        """Stop to query; the result of a query that runs is dropped."""
        with self._lock:
            self._active = False

    def stop(self, timeout: float) -> bool:
        """End the thread; returns whether a running query ended within ``timeout`` seconds."""
        self.deactivate()
        return self._thread.stop(timeout)

    def wake(self) -> None:
        """Look again whether there is something to do (time has passed)."""
        with self._lock:
            self._lock.notify_all()

    def apply(self, settings: VlaSettings) -> None:
        """Use other settings from the next query on; raises ConfigurationError as a veto."""
        with self._lock:
            uses_proprio(settings, self._policy)
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
            now = self._callbacks.now()
            self.planner.reset(now)
            self._callbacks.changed()
            return self.planner.episode, now

    def time_jumped_back(self) -> bool:
        """Take note that the ROS clock was set back; returns whether a new episode started."""
        with self._lock:
            began = self.planner.time_went_back(self._callbacks.now())
            self._lock.notify_all()
            self._callbacks.changed()
            return began

    def settled(self, timeout: float) -> bool:
        """Whether within ``timeout`` seconds everything that came in so far has been dealt with.

        Then no query runs, and none begins before another input, or time, makes it due.
        """
        with self._lock:
            self._asked += 1
            asked = self._asked
            self._lock.notify_all()
            return self._lock.wait_for(lambda: self._looked >= asked, timeout)

    def progress(self) -> dict[str, int]:
        """The counters, and the episode."""
        with self._lock:
            return {"episode": self.planner.episode, **vars(self.counters)}

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
                self._fail(code, source, error)
            else:
                self._faults.clear(code, source)
            self._lock.notify_all()

    def _fail(self, code: FaultCode, source: str, error: Exception) -> None:
        expected = isinstance(error, SpecpruneError)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        if self._faults.raise_fault(code, source, text) and not expected:
            self._callbacks.log_error("".join(traceback.format_exception(
                type(error), error, error.__traceback__)))

    # --- inference thread ----------------------------------------------------------------------

    def _next_job(self) -> Job | None:
        job = self._planned()
        if job is None and self._looked != self._asked:
            self._looked = self._asked
            self._lock.notify_all()
        return job

    def _planned(self) -> Job | None:
        if not self._active:
            return None
        try:
            return self.planner.next_job(self._callbacks.now())
        except Exception as error:  # the thread must live on
            self._fail(FaultCode.INFERENCE, "planner", error)
            return None

    def _run(self, job: Job) -> None:
        result, error = None, None
        try:
            result = self._runner.run(job)
        except Exception as raised:
            error = raised
        with self._lock:
            self.planner.finished(job, success=error is None)
            if job.query is not None:
                self.counters.queries += 1
            if error is not None:
                self._note_failure(error)
            else:
                self._note_success(job)
                if result is not None and self._wanted(job):
                    self.counters.chunks += 1
                    self._callbacks.publish(result)
            self._callbacks.changed()

    def _wanted(self, job: Job) -> bool:
        """Whether the node is still where it was when the query began."""
        return (self._active and job.episode == self.planner.episode
                and job.instruction == self.planner.instruction)

    def _note_failure(self, error: Exception) -> None:
        if isinstance(error, CameraError):
            name = f"{camera_input(error.camera)} ({_DECODING})"
            self._fail(FaultCode.IMAGE, name, error)
        elif isinstance(error, (ConfigurationError, MethodUnavailable)):
            self._fail(FaultCode.CONFIGURATION, _POLICY, error)
        else:
            self._fail(FaultCode.INFERENCE, _POLICY, error)

    def _note_success(self, job: Job) -> None:
        for camera in self.planner.sync.cameras:
            self._faults.clear(FaultCode.IMAGE, f"{camera_input(camera)} ({_DECODING})")
        self._faults.clear(FaultCode.CONFIGURATION, _POLICY)
        if job.query is not None:
            self._faults.clear(FaultCode.INFERENCE)
