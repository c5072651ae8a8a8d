"""What the inference thread runs: pictures to an Observation, and a query that the guard passes.

The order of what is tried: the policy with the pruning in force, then dense; what cannot be
answered by either is for the caller to hold.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from sensor_msgs.msg import CompressedImage

from ..errors import (
    ActionError,
    ConfigurationError,
    ImageError,
    MethodUnavailable,
    ObservationError,
)
from ..robot.guard import Verdict
from ..types import ActionChunk, Observation
from .conversions import NANOSECONDS, compressed_to_rgb, image_to_rgb, rotate
from .planner import Job, TimedSet
from .vla_parameters import VlaSettings

DENSE = "off"  # name of the method that keeps every token
_SAMPLE = 4  # every n-th pixel decides whether a picture is blank


class Policy(Protocol):
    """What the node needs of a policy (specprune_ros.policy.Policy). Used by one thread at a time.

    An episode is an object of the policy's own; a query that raises leaves it as it was. A shallow
    copy of an episode is as good as the episode, and a query on it leaves the original as it was.
    """

    uses_proprio: bool
    proprio_dim: int
    action_dim: int
    chunk_length: int

    def make_episode(self) -> Any: ...

    def observe(self, images: Mapping[str, np.ndarray], stamp: float,
                ee_twist: np.ndarray | None = None, episode: Any = None) -> None: ...

    def predict(self, observation: Observation, episode: Any = None) -> ActionChunk: ...

    def replan_wanted(self, episode: Any = None) -> bool: ...

    def set_pruning(self, pruning: Any, seed: int = 0) -> None: ...

    def with_pruning(self, pruning: Any) -> Policy: ...


class CameraError(ImageError):
    """The picture of one camera cannot be used; ``camera`` says whose."""

    def __init__(self, camera: str, text: str) -> None:
        super().__init__(text)
        self.camera = camera


class RefusedChunk(ActionError):
    """The guard does not let a chunk pass; ``rule`` says which limit it broke."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


class Source(IntEnum):
    """Where the rows of a chunk come from; the values are those of ActionChunk.msg."""

    POLICY = 0
    DENSE = 1
    HOLD = 2


@dataclass(frozen=True)
class QueryResult:
    """A chunk that the guard passed, with saturated actions, and the job it answers.

    inference_time: wall seconds from taking up the job. saturated: values that were clipped.
    observation: what was asked, for a shadow query. episode: the policy's, after this query.
    """

    chunk: ActionChunk
    job: Job
    inference_time: float
    source: Source
    saturated: int
    observation: Observation
    episode: Any


@dataclass(frozen=True)
class Outcome:
    """What a job gave. errors: what went wrong on the way, in order, also where another try helped.

    replan: the controller asks for a query before the next one is due.
    """

    result: QueryResult | None = None
    errors: tuple[Exception, ...] = ()
    replan: bool = False


@dataclass(frozen=True)
class _RunningEpisode:
    """number: the node's. state: the policy's object. origin: stamp (ns) of its first frame."""

    number: int
    state: Any
    origin: int

    def seconds(self, frame: TimedSet) -> float:
        """The stamp of a frame in the policy's time."""
        return (frame.stamp - self.origin) / NANOSECONDS


class QueryRunner:
    """Runs jobs on a policy, in one thread; keeps the policy's state of the running episode.

    The state is committed with a chunk that is published: a refused one leaves no trace.
    The policy's time is the seconds since the first frame of its episode: seconds since 1970 would
    be rounded to a quarter of a microsecond, and differently from episode to episode.
    """

    def __init__(self, policy: Policy, settings: VlaSettings,
                 judge: Callable[[Job, ActionChunk], Verdict],
                 in_time: Callable[[Job], bool]) -> None:
        """``settings``: those that the policy was loaded with. ``judge``: the guard. ``in_time``:
        whether there is time for another try."""
        self.policy = policy
        self.dense_left = 0  # queries that are dense because a shadow query said so
        self._method = _method(settings)
        self._judge = judge
        self._in_time = in_time
        self._episode: _RunningEpisode | None = None
        self._dense: Policy | None = None  # made when it is needed

    def run(self, job: Job) -> Outcome:
        """Run a job. Does not raise."""
        start = time.perf_counter()
        try:
            self._use_method(job)
            episode = self._observed(job)
            if job.query is None:
                return Outcome(replan=self.policy.replan_wanted(episode.state))
            observation = _observation(job, episode)
        except Exception as error:
            return Outcome(errors=(error,))
        return self._query(job, observation, episode, start)

    def commit(self, result: QueryResult) -> None:
        """Go on from the state after a query, the last one that was run."""
        self._episode = replace(self._episode, state=result.episode)

    def shadow(self, result: QueryResult) -> float:
        """Mean absolute difference of a chunk's normalised actions from dense ones.

        Raises:
            Exception: whatever the policy raises.
        """
        dense = self._dense_policy().predict(result.observation, self._dense.make_episode())
        difference = (result.chunk.normalized_actions.astype(np.float64)
                      - dense.normalized_actions)
        return float(np.abs(difference).mean())

    def _query(self, job: Job, observation: Observation, episode: _RunningEpisode,
               start: float) -> Outcome:
        errors: list[Exception] = []
        for source, policy in self._attempts(job):
            attempt = copy(episode.state)
            try:
                chunk = policy.predict(observation, episode=attempt)
                verdict = self._judge(job, chunk)
                if not verdict.accepted:
                    raise RefusedChunk(verdict.rule, verdict.reason)
            except Exception as error:
                errors.append(error)
                if not _another_try_may_help(error) or not self._in_time(job):
                    break
                continue
            return Outcome(QueryResult(
                replace(chunk, actions=verdict.actions), job, time.perf_counter() - start, source,
                verdict.saturated, observation, attempt), tuple(errors))
        return Outcome(errors=tuple(errors))

    def _attempts(self, job: Job) -> Iterator[tuple[Source, Policy]]:
        pruned = job.settings["pruning"] != DENSE
        if not pruned or self.dense_left == 0:
            yield Source.POLICY, self.policy
        if pruned:
            self.dense_left = max(0, self.dense_left - 1)
            yield Source.DENSE, self._dense_policy()

    def _dense_policy(self) -> Policy:
        if self._dense is None:
            self._dense = self.policy.with_pruning(DENSE)
        return self._dense

    def _use_method(self, job: Job) -> None:
        method = _method(job.settings)
        if method != self._method:
            self.policy.set_pruning(*method)
            self._method = method
            self.dense_left = 0

    def _observed(self, job: Job) -> _RunningEpisode:
        """The policy's episode of a job, with the frames of the job in it."""
        if self._episode is None or self._episode.number != job.episode:
            origin = (*job.observe, job.query)[0].stamp
            self._episode = _RunningEpisode(job.episode, self.policy.make_episode(), origin)
        episode = self._episode
        for frame in job.observe:
            twist = frame.arm.twist if frame.arm else None
            self.policy.observe(_pictures(frame, job), episode.seconds(frame),
                                ee_twist=twist, episode=episode.state)
        return episode


def _method(settings: VlaSettings) -> tuple[Any, int]:
    """What Policy.set_pruning() takes."""
    return settings.method, settings["pruning_seed"]


def _observation(job: Job, episode: _RunningEpisode) -> Observation:
    arm = job.query.arm
    return Observation(
        images=_pictures(job.query, job),
        instruction=job.instruction,
        proprio=arm.proprio if arm else None,
        stamp=episode.seconds(job.query),
        ee_twist=arm.twist if arm else None,
    )


def _another_try_may_help(error: Exception) -> bool:
    """Dense helps against what pruning did, not against a bad input or an old observation."""
    if isinstance(error, RefusedChunk):
        return error.rule not in ("stale", "pose", "jump")
    return not isinstance(error, (ObservationError, ConfigurationError, MethodUnavailable))


def _pictures(frame: TimedSet, job: Job) -> dict[str, np.ndarray]:
    """camera -> uint8 [H, W, 3], RGB, upright. Raises CameraError."""
    pictures = {}
    angles = dict(zip(job.settings["cameras"],
                      job.settings.per_item("camera_rotation", "cameras")))
    for camera, msg in frame.pictures.images.items():
        try:
            rgb = (compressed_to_rgb(msg) if isinstance(msg, CompressedImage)
                   else image_to_rgb(msg))
            _check_contrast(rgb, job.settings["min_contrast"])
        except ImageError as error:
            raise CameraError(camera, str(error)) from error
        pictures[camera] = rotate(rgb, angles[camera])
    return pictures


def _check_contrast(rgb: np.ndarray, least: int) -> None:
    if least == 0:
        return
    sample = rgb[::_SAMPLE, ::_SAMPLE]
    darkest, brightest = int(sample.min()), int(sample.max())
    if brightest - darkest < least:
        raise ImageError(
            f"the picture is blank: all values lie between {darkest} and {brightest}. Check lens "
            "cap, exposure and cable; min_contrast 0 switches this check off")
