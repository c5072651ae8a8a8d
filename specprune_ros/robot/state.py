"""The state of the arm as a policy is given it: proprio and filtered twist from joint states.

``vla_node`` and the closed-loop evaluation both take it from here, so that both give a policy the
same numbers for the same joint states.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .kinematics import ArmKinematics, Pose
from .proprio import ProprioSpec, proprio_vector
from .velocity import DEFAULT_TIME_CONSTANT_S, TwistEstimator

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class ArmState:
    """State of the arm at one stamp.

    pose: of the tool in the base frame.
    twist: [6] of the tool in the axes of the base frame (m/s, rad/s), filtered; None in the first
        sample of a stream without measured velocities.
    proprio: [6 + gripper joints] as the checkpoint takes it; None where it is not wanted.
    """

    pose: Pose
    twist: np.ndarray | None
    proprio: np.ndarray | None


class ArmStateEstimator:
    """Turns a stream of joint states into :class:`ArmState`. Not thread-safe.

    spec: how the checkpoint wants proprio, None for none. Times are counted in whole nanoseconds
    from the first joint state after a reset: the same motion gives the same bits at any time of
    day.
    """

    def __init__(
        self,
        kinematics: ArmKinematics,
        spec: ProprioSpec | None,
        time_constant_s: float = DEFAULT_TIME_CONSTANT_S,
    ) -> None:
        self._estimator = TwistEstimator(kinematics, time_constant_s)
        self._spec = spec
        self._origin: int | None = None

    def reset(self) -> None:
        """Forget the motion: the next joint state is the first of a stream."""
        self._estimator.reset()
        self._origin = None

    def update(
        self,
        stamp_ns: int,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float] | None = None,
    ) -> ArmState:
        """Take one joint state; rad, m and per second, ``velocities`` None or empty if unmeasured.

        Raises JointStateError as TwistEstimator.update does, and for gripper joints that proprio
        needs and the joint state lacks.
        """
        if self._origin is None:
            self._origin = stamp_ns
        sample = self._estimator.update(
            (stamp_ns - self._origin) / NANOSECONDS, names, positions, velocities
        )
        proprio = None
        if self._spec is not None:
            proprio = proprio_vector(sample.pose, sample.positions, self._spec)
        return ArmState(sample.pose, sample.twist, proprio)
