"""The inference thread, and what it runs: pictures to an Observation, and a query of the policy."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from sensor_msgs.msg import CompressedImage

from ..errors import ActionError, ImageError
from ..robot.gripper import check_actions
from ..types import ActionChunk, Observation
from .conversions import NANOSECONDS, compressed_to_rgb, image_to_rgb, rotate
from .planner import Job, TimedSet
from .vla_parameters import VlaSettings


class Policy(Protocol):
    """What the node needs of a policy (specprune_ros.policy.Policy). Used by one thread at a time.

    An episode is an object of the policy's own; a query that raises leaves it as it was.
    """

    uses_proprio: bool
    proprio_dim: int
    action_dim: int
    chunk_length: int

    def make_episode(self) -> Any: ...

    def observe(self, images: Mapping[str, np.ndarray], stamp: float,
                ee_twist: np.ndarray | None = None, episode: Any = None) -> None: ...

    def predict(self, observation: Observation, episode: Any = None) -> ActionChunk: ...

    def set_pruning(self, name: str, seed: int = 0) -> None: ...


class CameraError(ImageError):
    """The picture of one camera cannot be decoded; ``camera`` says whose."""

    def __init__(self, camera: str, text: str) -> None:
        super().__init__(text)
        self.camera = camera


@dataclass(frozen=True)
class QueryResult:
    """A chunk, the job it answers, and the wall seconds from taking up the job."""

    chunk: ActionChunk
    job: Job
    inference_time: float


@dataclass(frozen=True)
class _RunningEpisode:
    """number: the node's. state: the policy's object. origin: stamp (ns) of its first frame."""

    number: int
    state: Any
    origin: int


class QueryRunner:
    """Runs jobs on a policy, in one thread; keeps the policy's state of the running episode.

    The policy's time is the seconds since the first frame of its episode: seconds since 1970 would
    be rounded to a quarter of a microsecond, and differently from episode to episode.
    """

    def __init__(self, policy: Policy, settings: VlaSettings) -> None:
        """``settings``: those that the policy was loaded with."""
        self._policy = policy
        self._method = _method(settings)
        self._episode: _RunningEpisode | None = None

    def run(self, job: Job) -> QueryResult | None:
        """Run a job; returns None if it has no query.

        Raises:
            CameraError: a picture cannot be decoded.
            ActionError: the policy's chunk has the wrong shape or holds a NaN.
            Exception: whatever else the policy raises.
        """
        start = time.perf_counter()
        method = _method(job.settings)
        if method != self._method:
            self._policy.set_pruning(*method)
            self._method = method
        if self._episode is None or self._episode.number != job.episode:
            origin = (*job.observe, job.query)[0].stamp
            self._episode = _RunningEpisode(job.episode, self._policy.make_episode(), origin)
        episode = self._episode.state
        for frame in job.observe:
            twist = frame.arm.twist if frame.arm else None
            self._policy.observe(self._pictures(frame, job), self._seconds(frame),
                                 ee_twist=twist, episode=episode)
        if job.query is None:
            return None
        chunk = self._policy.predict(self._observation(job), episode=episode)
        self._check(chunk)
        return QueryResult(chunk, job, time.perf_counter() - start)

    def _seconds(self, frame: TimedSet) -> float:
        """The stamp of a frame in the policy's time."""
        return (frame.stamp - self._episode.origin) / NANOSECONDS

    def _observation(self, job: Job) -> Observation:
        arm = job.query.arm
        return Observation(
            images=self._pictures(job.query, job),
            instruction=job.instruction,
            proprio=arm.proprio if arm else None,
            stamp=self._seconds(job.query),
            ee_twist=arm.twist if arm else None,
        )

    def _pictures(self, frame: TimedSet, job: Job) -> dict[str, np.ndarray]:
        """camera -> uint8 [H, W, 3], RGB, upright."""
        pictures = {}
        angles = dict(zip(job.settings["cameras"],
                          job.settings.per_item("camera_rotation", "cameras")))
        for camera, msg in frame.pictures.images.items():
            try:
                rgb = (compressed_to_rgb(msg) if isinstance(msg, CompressedImage)
                       else image_to_rgb(msg))
            except ImageError as error:
                raise CameraError(camera, str(error)) from error
            pictures[camera] = rotate(rgb, angles[camera])
        return pictures

    def _check(self, chunk: ActionChunk) -> None:
        actions = check_actions(chunk.actions, "the policy's chunk")
        expected = (self._policy.chunk_length, self._policy.action_dim)
        if actions.shape != expected:
            raise ActionError(f"the policy's chunk has shape {actions.shape}, expected {expected}")


def _method(settings: VlaSettings) -> tuple[str, int]:
    return settings["pruning"], settings["pruning_seed"]


class InferenceThread:
    """One thread that takes jobs, one at a time, whenever there is one.

    lock: guards what ``next_job`` reads; notify it when something has changed. ``next_job`` is
    called with the lock held and must not block; ``run`` is called without it and must not raise.
    """

    def __init__(self, lock: threading.Condition, next_job: Callable[[], Job | None],
                 run: Callable[[Job], None]) -> None:
        self._lock = lock
        self._next_job = next_job
        self._run = run
        self._stopping = False
        # A daemon, so that a query that never returns cannot keep the process alive.
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Ask the thread to end after the running job; returns whether it did within seconds."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while (job := self._wait_for_job()) is not None:
            self._run(job)

    def _wait_for_job(self) -> Job | None:
        with self._lock:
            while not self._stopping:
                job = self._next_job()
                if job is not None:
                    return job
                self._lock.wait()
        return None
