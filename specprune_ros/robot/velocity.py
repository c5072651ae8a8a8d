"""Tool velocity from a stream of joint states: measured or differenced, then low-pass filtered."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError, JointStateError
from .kinematics import ArmKinematics, Pose

DEFAULT_TIME_CONSTANT_S = 0.05  # one control period at 20 Hz


@dataclass(frozen=True)
class JointSample:
    """One joint state and what follows from it.

    positions: by joint name, every joint of the message (rad, m).
    pose: of the tool in the base frame.
    raw_twist: [6] tool velocity in the axes of the base frame (m/s, rad/s), of this sample alone.
    twist: [6] the same, filtered. Both are None in the first sample of a stream without measured
        velocities, where nothing can be known about the motion.
    """

    stamp: float
    positions: Mapping[str, float]
    pose: Pose
    twist: np.ndarray | None
    raw_twist: np.ndarray | None


class TwistEstimator:
    """Turns joint states into tool velocities.

    Measured joint velocities are used where a message has them; where its velocity field is
    empty, positions are differenced over the real interval. The filter is a first-order low-pass
    whose coefficient comes from that interval too, 1 - exp(-dt / time_constant_s), so that stamps
    may jitter. A time constant of 0 switches it off. Not thread-safe.
    """

    def __init__(
        self, kinematics: ArmKinematics, time_constant_s: float = DEFAULT_TIME_CONSTANT_S
    ) -> None:
        if not (math.isfinite(time_constant_s) and time_constant_s >= 0.0):
            raise ConfigurationError(
                f"time_constant_s is {time_constant_s}; it must be finite and not negative"
            )
        self.kinematics = kinematics
        self.time_constant_s = float(time_constant_s)
        self._last: JointSample | None = None

    def reset(self) -> None:
        """Forget the past: the next sample is the first of a stream."""
        self._last = None

    def update(
        self,
        stamp: float,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float] | None = None,
    ) -> JointSample:
        """Take one joint state; ``stamp`` in seconds, ``velocities`` None or empty if unmeasured.

        A message with the stamp of the last one changes neither the filter nor the velocity.
        Raises JointStateError if lengths differ, a name appears twice, a joint of the chain is
        missing or not finite, or the stamp is not finite or lies before the last one; the filter
        is reset in the last case, so that the next message starts a new stream. Other errors
        leave the estimator as it was.
        """
        if not math.isfinite(stamp):
            raise JointStateError(f"stamp of the joint states is {stamp}")
        by_name = _by_name(names, positions, "position")
        pose = self.kinematics.pose(by_name)
        measured = None
        if velocities is not None and len(velocities) > 0:
            measured = self.kinematics.twist(by_name, _by_name(names, velocities, "velocity"))

        last = self._last
        if last is not None and stamp < last.stamp:
            self.reset()
            raise JointStateError(
                f"stamp of the joint states went back by {last.stamp - stamp:.6f} s, from "
                f"{last.stamp:.6f} to {stamp:.6f}; the velocity filter was reset. More than one "
                "publisher on joint_states, or a clock that was set back?"
            )
        if last is None:
            raw = filtered = measured
        elif stamp == last.stamp:
            raw, filtered = last.raw_twist, last.twist
            if raw is None:  # the first message had no velocity; this one may
                raw = filtered = measured
        else:
            raw = measured if measured is not None else self._difference(last, stamp, by_name)
            filtered = self._filter(last, stamp, raw)
        if filtered is not None and not np.isfinite(filtered).all():
            raise JointStateError("the joint states make a velocity of the tool that is not "
                                  "finite: positions or velocities are absurdly large")
        self._last = JointSample(float(stamp), by_name, pose, filtered, raw)
        return self._last

    def _difference(
        self, last: JointSample, stamp: float, positions: Mapping[str, float]
    ) -> np.ndarray:
        """Twist of the mean joint velocity since the last sample, at the middle of the way."""
        before = self.kinematics.select(last.positions)
        with np.errstate(over="ignore"):  # update() refuses what is not finite
            way = self.kinematics.displacement(before, self.kinematics.select(positions))
            speeds = way / (stamp - last.stamp)
        names = self.kinematics.joint_names
        return self.kinematics.twist(
            dict(zip(names, before + 0.5 * way)),
            dict(zip(names, speeds)),
        )

    def _filter(self, last: JointSample, stamp: float, raw: np.ndarray) -> np.ndarray:
        if last.twist is None or self.time_constant_s == 0.0:
            return raw
        gain = -math.expm1(-(stamp - last.stamp) / self.time_constant_s)
        return last.twist + gain * (raw - last.twist)


def _by_name(names: Sequence[str], values: Sequence[float], what: str) -> dict[str, float]:
    if len(names) != len(values):
        raise JointStateError(
            f"joint states have {len(names)} names and {len(values)} {what} values; "
            "the lengths must agree (an empty velocity field is allowed)"
        )
    by_name = dict(zip(names, map(float, values)))
    if len(by_name) != len(names):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise JointStateError(f"joint states name a joint twice: {', '.join(twice)}")
    return by_name
