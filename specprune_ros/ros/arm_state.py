"""State of the arm over time: joint states in; pose, velocity and proprio by stamp out."""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError, JointStateError
from ..robot.kinematics import ArmKinematics, Pose
from ..robot.proprio import ProprioSpec
from ..robot.state import ArmStateEstimator
from .inputs import History
from .vla_parameters import VlaSettings

_DEPTH = 2000  # joint states: 2 s at 1 kHz
_EARLY = 100  # joint states kept until a robot description arrives
_PARAMETERS = ("base_frame", "tool_frame", "twist_time_constant", "gripper.joints",
               "gripper.scale", "gripper.offset", "orientation_reference_xyzw")


@dataclass(frozen=True)
class JointReading:
    """The fields of a JointState; stamp in ns."""

    stamp: int
    names: Sequence[str]
    positions: Sequence[float]
    velocities: Sequence[float]


@dataclass(frozen=True)
class ArmSample:
    """State of the arm at a stamp (ns).

    pose: of the tool in the base frame.
    twist: [6] of the tool in the axes of the base frame (m/s, rad/s); None if not known yet.
    proprio: [6 + gripper joints] for the policy, or None where it is not used.
    """

    stamp: int
    pose: Pose
    twist: np.ndarray | None
    proprio: np.ndarray | None


class ArmTracker:
    """Follows the arm. Not thread-safe."""

    def __init__(self, settings: VlaSettings, with_proprio: bool) -> None:
        """``with_proprio``: whether the gripper joints are needed besides the arm's."""
        self.samples: History[ArmSample] = History(_DEPTH)
        self.trouble = ""  # why the description cannot be used
        self._settings = settings
        self._with_proprio = with_proprio
        self._description: str | None = None
        self._early: deque[JointReading] = deque(maxlen=_EARLY)
        self._estimator: ArmStateEstimator | None = None

    @property
    def ready(self) -> bool:
        """Whether a usable robot description is there."""
        return self._estimator is not None

    def describe(self, urdf: str) -> None:
        """Take a robot description; joint states that came before it are used now.

        Raises:
            ConfigurationError: it is no URDF, or the frames are not in it. The tracker then is not
                ready until another description, or other frames, come.
        """
        if self.ready and urdf == self._description:
            return  # published again
        self._description = urdf
        self._estimator = None
        try:
            self._rebuild(self._settings)
        except ConfigurationError as error:
            self.trouble = str(error)
            raise

    def apply(self, settings: VlaSettings) -> None:
        """Use other settings; where none fitted so far, ``trouble`` says whether these do.

        Raises:
            ConfigurationError: they do not fit the description, and those in force do: they stay.
        """
        before, self._settings = self._settings, settings
        if self._description is None or all(before[n] == settings[n] for n in _PARAMETERS):
            return
        try:
            self._rebuild(settings)
        except ConfigurationError as error:
            if self.ready:
                self._settings = before
                raise
            self.trouble = str(error)

    def add(self, reading: JointReading) -> None:
        """Take a joint state; without a robot description it is kept for later.

        Raises:
            JointStateError: joints are missing or not finite, lengths differ, time went back.
        """
        if self._estimator is None:
            self._early.append(reading)
            return
        self.samples.add(reading.stamp, self._sample(reading))

    def forget_motion(self) -> None:
        """Forget the velocity: the arm may have been set somewhere else."""
        self._early.clear()
        if self._estimator is not None:
            self._estimator.reset()

    def forget_after(self, stamp: int) -> None:
        """Forget what is later than a stamp: time has gone back to it."""
        self.samples.drop_after(stamp)
        self.forget_motion()

    def _rebuild(self, settings: VlaSettings) -> None:
        kinematics = ArmKinematics.from_urdf(
            self._description, settings["base_frame"], settings["tool_frame"])
        spec = ProprioSpec(settings["gripper.joints"],
                           settings.per_item("gripper.scale", "gripper.joints"),
                           settings.per_item("gripper.offset", "gripper.joints"),
                           settings["orientation_reference_xyzw"])
        self._estimator = ArmStateEstimator(
            kinematics, spec if self._with_proprio else None, settings["twist_time_constant"])
        self.trouble = ""
        self.samples.clear()
        early = list(self._early)
        self._early.clear()
        for reading in early:
            try:
                self.add(reading)
            except JointStateError:
                continue  # an old reading; the next one that is wrong is reported

    def _sample(self, reading: JointReading) -> ArmSample:
        newest = self.samples.newest
        if newest is not None and reading.stamp < newest:
            self.samples.drop_after(reading.stamp)
        state = self._estimator.update(
            reading.stamp, reading.names, reading.positions, reading.velocities)
        return ArmSample(reading.stamp, state.pose, state.twist, state.proprio)
