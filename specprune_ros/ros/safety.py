"""What may be published, when to hold and when to latch: the guard and the watchdogs of vla_node.

Nothing here knows a topic. Stamps and times are integer nanoseconds on the ROS clock.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..robot.guard import DOF, MOTION, Latch, Proposal, Verdict, judge
from ..robot.watchdog import Alarm, Watchdog
from ..types import ActionChunk
from .conversions import NANOSECONDS
from .guard_parameters import guard_limits
from .planner import Job, QueryPlanner
from .vla_parameters import VlaSettings

NEUTRAL_GRIPPER = 0.5  # neither open nor close: no gripper acts on it


@dataclass(frozen=True)
class Seam:
    """Step of the commanded velocity from one chunk to the next: norms, m/s and rad/s, or NaN."""

    translation: float = math.nan
    rotation: float = math.nan


@dataclass
class SafetyCounters:
    """Since the node was configured; the names are those of VlaStatus.msg."""

    rejected: int = 0
    failures: int = 0
    dense_fallbacks: int = 0
    holds: int = 0


@dataclass(frozen=True)
class _InPlay:
    """The chunk published last: it is what moves the arm now."""

    episode: int
    stamp: int
    actions: np.ndarray  # [C, 7]
    dt: float
    moves: bool = True

    def row(self, now: int, tolerance: float = 0.0) -> int:
        """The row that is played at a time; C and more once they are over."""
        return math.floor((now - self.stamp) / NANOSECONDS / self.dt - tolerance)


class Safety:
    """Judges chunks, remembers what moves, and decides when that has to end. Not thread-safe."""

    def __init__(self, planner: QueryPlanner) -> None:
        self.latch = Latch()
        self.watchdog = Watchdog()
        self.counters = SafetyCounters()
        self.last_rejection = ""
        self._planner = planner
        self._in_play: _InPlay | None = None
        self._fed = 0  # when the last chunk of the policy was published

    @property
    def moving(self) -> bool:
        """Whether the chunk published last is of the policy."""
        return self._in_play is not None and self._in_play.moves

    # --- chunks --------------------------------------------------------------------------------

    def judge(self, job: Job, chunk: ActionChunk, now: int) -> Verdict:
        """Whether a chunk may be published now."""
        settings, planner = job.settings, self._planner
        start, measured = job.query.arm, planner.arm.samples.last
        timeout = settings["input_timeout"] * NANOSECONDS
        if measured is not None and abs(now - measured.stamp) > timeout:
            measured = None
        scale = [settings["unit_scale.translation"]] * 3 + [settings["unit_scale.rotation"]] * 3
        verdict = judge(Proposal(
            actions=chunk.actions,
            rows=settings["chunk_length"],
            unit_scale=tuple(scale),
            dt=settings["control_period"],
            age=(now - job.query.stamp) / NANOSECONDS,
            start=start and start.pose,
            measured=measured and measured.pose,
        ), guard_limits(settings, planner.needs_arm))
        if not verdict.accepted:
            self.counters.rejected += 1
            self.last_rejection = verdict.reason
        return verdict

    def published(self, job: Job, actions: np.ndarray, now: int) -> Seam:
        """Note that a chunk of the policy was published; returns how it joins the one before."""
        chunk = _InPlay(job.episode, job.query.stamp, actions, job.settings["control_period"])
        seam = self._seam(chunk, job.settings, now)
        self._in_play, self._fed = chunk, now
        self.latch.succeed()
        self.watchdog.arm()
        return seam

    def hold(self, stamp: int, episode: int, now: int) -> np.ndarray:
        """Rows [C, 7] of a hold chunk of a stamp: no motion, the gripper as commanded now."""
        settings = self._planner.settings
        actions = np.zeros((settings["chunk_length"], DOF))
        last = self._in_play
        gripper = NEUTRAL_GRIPPER
        if last is not None and last.episode == episode:
            row = min(max(last.row(now), 0), len(last.actions) - 1)
            gripper = float(last.actions[row, MOTION])
        actions[:, MOTION] = gripper
        self.counters.holds += 1
        self._in_play = _InPlay(episode, stamp, actions, settings["control_period"],
                                moves=False)
        return actions

    def _seam(self, chunk: _InPlay, settings: VlaSettings, now: int) -> Seam:
        """The row before the hand-over is of the old chunk, the one after it of the new chunk."""
        old = self._in_play
        if old is None or old.episode != chunk.episode:
            return Seam()
        # The row that has just ended, where the hand-over falls between two.
        before, after = old.row(now, tolerance=1e-3), max(chunk.row(now, -1e-3), 0)
        if not 0 <= before < len(old.actions) or after >= len(chunk.actions):
            return Seam()
        step = (chunk.actions[after] - old.actions[before])[:MOTION] / chunk.dt
        return Seam(
            float(np.linalg.norm(step[:3])) * settings["unit_scale.translation"],
            float(np.linalg.norm(step[3:])) * settings["unit_scale.rotation"])

    # --- watchdogs -----------------------------------------------------------------------------

    def problems(self, now: int, query_since: int | None) -> tuple[list[str], list[str]]:
        """What is missing of the inputs, and what is overdue of the node's own, in words.

        query_since: when the running query began, None if none runs.
        """
        settings = self._planner.settings
        deadline = settings["watchdog.inference_deadline"]
        missing, overdue = self._planner.missing(now), []
        if query_since is not None and now - query_since > deadline * NANOSECONDS:
            overdue.append(f"a query takes longer than watchdog.inference_deadline ({deadline} s)")
        elif self.watchdog.armed and not missing and now - self._fed > self._patience(query_since):
            overdue.append("inputs come, but no chunk has been published for longer than a query "
                           "and input_timeout take together")
        return missing, overdue

    def _patience(self, query_since: int | None) -> float:
        """Nanoseconds without a chunk after which something must be wrong."""
        settings = self._planner.settings
        seconds = settings["replan_steps"] * settings["control_period"] + settings["input_timeout"]
        if query_since is not None:
            seconds += settings["watchdog.inference_deadline"]
        return seconds * NANOSECONDS

    def check(self, now: int, problems: Sequence[str]) -> Alarm:
        """Alarm of the watchdog for the problems at hand."""
        return self.watchdog.check(now / NANOSECONDS, problems,
                                   self._planner.settings["watchdog.latch_after"])

    def time_went_back(self, now: int) -> None:
        """The ROS clock was set back: nothing that was published counts any more."""
        self._in_play = None
        self._fed = min(self._fed, now)

    def stop(self) -> None:
        """Nothing is to move from now on (deactivated, latched)."""
        self.watchdog.disarm()
        self._in_play = None
