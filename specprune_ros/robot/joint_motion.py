"""Steps of the tool to joint targets: damped least squares on pinocchio's Jacobian.

A target that would break a limit is refused, not clamped: the arm stays where it was sent last.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ActionError, ConfigurationError, JointStateError
from .kinematics import ArmKinematics
from .rotations import axis_angle_to_matrix, matrix_to_axis_angle

_ITERATIONS = 20
_STEP = 0.2  # largest change of a joint in one iteration, rad or m
_POSITION_TOLERANCE = 1e-4  # m
_ROTATION_TOLERANCE = 1e-3  # rad
_BEYOND = 0.05  # rad or m by which a joint may be measured beyond its limit
_NOISE = 0.1  # rad or m by which it may be off from one reading to the next, besides its motion


class MotionRefused(ActionError):
    """A step cannot be made: a joint limit, a singularity, or an arm that does not follow."""


class ArmAstray(MotionRefused):
    """The arm is not where it was sent to: it is blocked, or somebody else moves it."""


@dataclass(frozen=True)
class JointLimits:
    """margin: kept from the URDF's position limits, rad or m. speed_scale: share of the URDF's
    velocity limits that may be used. tracking: largest difference between where a joint was sent
    and where it is, rad or m. damping: of least squares, against huge steps near singularities."""

    margin: float = 0.02
    speed_scale: float = 1.0
    tracking: float = 0.3
    damping: float = 0.02

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0) and not (name == "margin" and value == 0):
                raise ConfigurationError(f"{name} is {value}; it must be positive and finite")


def check_reading(kinematics: ArmKinematics, positions: np.ndarray,
                  before: np.ndarray | None, elapsed: float) -> None:
    """Check that an arm can be where its joint states say; an arm that is stopped is sent there.

    positions: [n] measured. before: [n] of the last reading, ``elapsed`` s ago; None for the first.

    Raises:
        JointStateError: a joint is far beyond its limits, or moved far faster than it can.
    """
    names = kinematics.joint_names
    lower, upper = kinematics.position_limits
    beyond = ~((positions >= lower - _BEYOND) & (positions <= upper + _BEYOND))
    if beyond.any():
        k = int(np.argmax(beyond))
        raise JointStateError(f"joint {names[k]} is measured at {positions[k]:.4g}, its limits are "
                              f"{lower[k]:.4g} to {upper[k]:.4g}. Check the joint states and the "
                              "robot description")
    if before is None:
        return
    way = np.abs(kinematics.displacement(before, positions))
    jumped = ~(way <= kinematics.velocity_limits * max(elapsed, 0.0) + _NOISE)
    if jumped.any():
        k = int(np.argmax(jumped))
        raise JointStateError(f"joint {names[k]} is measured {way[k]:.4g} away from where it was "
                              f"{elapsed:.3f} s before, its limit is "
                              f"{kinematics.velocity_limits[k]:.4g}/s. More than one publisher on "
                              "joint_states?")


class JointMotion:
    """Follows steps of the tool with joint targets. Not thread-safe.

    Steps add up on the targets, not on measured positions, so that an arm that sags or lags a
    little still goes where the actions lead; an arm that lags too far is a fault.
    """

    def __init__(self, kinematics: ArmKinematics, limits: JointLimits) -> None:
        self.kinematics = kinematics
        self.limits = limits
        lower, upper = kinematics.position_limits
        self._lower, self._upper = lower + limits.margin, upper - limits.margin
        self._speed = kinematics.velocity_limits * limits.speed_scale
        self.target: np.ndarray | None = None  # [n], None before the first step

    def forget(self) -> None:
        """The next step starts from where the arm is measured."""
        self.target = None

    def step(self, step: np.ndarray, duration: float, measured: np.ndarray) -> np.ndarray:
        """Joint positions [n] that make a step [6] (m, rad; axes of the base) in ``duration`` s.

        measured: positions [n] now. Raises MotionRefused (the target stays as it was), and
        ArmAstray where the arm is farther from the target than allowed.
        """
        measured = np.asarray(measured, np.float64)
        if not (np.isfinite(step).all() and np.isfinite(measured).all()):
            raise MotionRefused("the step or the joint positions are not finite")
        start = measured.copy() if self.target is None else self.target
        self._check_tracking(start, measured)
        if not np.any(step):
            self.target = start
            return start.copy()
        found = self._solve(start, step)
        self._check(start, found, duration)
        self.target = found
        return found.copy()

    def _solve(self, start: np.ndarray, step: np.ndarray) -> np.ndarray:
        position, rotation = self.kinematics.tool_pose(start)
        goal = position + step[:3], axis_angle_to_matrix(step[3:]) @ rotation
        found, damping = start.copy(), self.limits.damping**2 * np.eye(6)
        for _ in range(_ITERATIONS):
            position, rotation = self.kinematics.tool_pose(found)
            error = np.concatenate([goal[0] - position,
                                    matrix_to_axis_angle(goal[1] @ rotation.T)])
            if (np.linalg.norm(error[:3]) < _POSITION_TOLERANCE
                    and np.linalg.norm(error[3:]) < _ROTATION_TOLERANCE):
                return found
            jacobian = self.kinematics.jacobian(found)
            change = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping, error)
            found = found + change * min(1.0, _STEP / max(np.abs(change).max(), 1e-12))
        raise MotionRefused("the arm cannot make the step from where it is (singular, or out of "
                            "reach)")

    def _check(self, start: np.ndarray, found: np.ndarray, duration: float) -> None:
        names = self.kinematics.joint_names
        change = self.kinematics.displacement(start, found)
        too_fast = np.abs(change) > self._speed * duration * (1 + 1e-9)
        if too_fast.any():
            joint = int(np.argmax(too_fast))
            raise MotionRefused(f"joint {names[joint]} would move at "
                                f"{abs(change[joint]) / duration:.3g}/s, its limit is "
                                f"{self._speed[joint]:.3g}/s")
        # Where a joint is outside already (it was put there by hand), it may come back.
        lower, upper = np.minimum(self._lower, start), np.maximum(self._upper, start)
        beyond = (found < lower) | (found > upper)
        if beyond.any():
            joint = int(np.argmax(beyond))
            raise MotionRefused(f"joint {names[joint]} would go to {found[joint]:.3f}, its limits "
                                f"are {self._lower[joint]:.3f} to {self._upper[joint]:.3f}")

    def _check_tracking(self, start: np.ndarray, measured: np.ndarray) -> None:
        away = np.abs(self.kinematics.displacement(start, measured))
        if away.max() > self.limits.tracking:
            joint = int(np.argmax(away))
            raise ArmAstray(f"joint {self.kinematics.joint_names[joint]} is {away[joint]:.3g} away "
                            f"from where it was sent; {self.limits.tracking:g} is allowed")
