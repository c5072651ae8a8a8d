"""Simulators seen through something; ``Measured`` is what a robot's node makes of one."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import SimulatorError
from ..robot.kinematics import ArmKinematics
from ..robot.proprio import ProprioSpec
from ..robot.rotations import axis_angle_to_matrix
from ..robot.state import NANOSECONDS, ArmStateEstimator
from .base import SimObservation, Simulator

_SAME_POSITION = 1e-3  # m, of tool and fingers
_SAME_ROTATION = 1e-2  # rad


class SimulatorView:
    """A simulator that is itself in all but what a subclass changes."""

    def __init__(self, simulator: Simulator) -> None:
        self._inner = simulator

    def __getattr__(self, name: str):
        if name == "_inner":  # not there yet, or being unpickled
            raise AttributeError(name)
        return getattr(self._inner, name)

    def reset(self, task: int | None, init_state: int) -> SimObservation:
        self._start(init_state, self._inner.reset(task, init_state))
        return self.observe()

    def _start(self, init_state: int, first: SimObservation) -> None:
        """Prepare for the episode that has just begun with this observation."""

    def observe(self, render: bool = True) -> SimObservation:
        return self._inner.observe(render)


class Measured(SimulatorView):
    """A simulator whose observations a policy gets as ``vla_node`` would give them.

    proprio and ee_twist come from the joint states by forward kinematics and the velocity filter
    of robot/state.py, at its default settings, which are the node's; stamps are whole nanoseconds
    and count from the first observation of the episode. The simulator's own proprio and twist are
    used only to see at each reset that its robot description is that of its arm.
    """

    def __init__(self, simulator: Simulator) -> None:
        super().__init__(simulator)
        kinematics = ArmKinematics.from_urdf(
            simulator.robot_description(), simulator.base_frame, simulator.tool_frame
        )
        self._arm = ArmStateEstimator(kinematics, ProprioSpec())
        self._first_ns = 0

    def reset(self, task: int | None, init_state: int) -> SimObservation:
        first = self._inner.reset(task, init_state)
        self._arm.reset()
        self._first_ns = _ns(first.stamp)
        seen = self._measured(first)
        self._check(seen.proprio, np.asarray(first.proprio, np.float64))
        return seen

    def observe(self, render: bool = True) -> SimObservation:
        return self._measured(self._inner.observe(render))

    def _measured(self, seen: SimObservation) -> SimObservation:
        stamp_ns = _ns(seen.stamp) - self._first_ns
        arm = self._arm.update(
            stamp_ns, seen.joint_names, seen.joint_positions, seen.joint_velocities
        )
        return replace(
            seen, stamp=stamp_ns / NANOSECONDS, proprio=arm.proprio, ee_twist=arm.twist
        )

    def _check(self, measured: np.ndarray, true: np.ndarray) -> None:
        """Raise SimulatorError where the URDF gives another proprio [8] than the simulator."""
        turn = axis_angle_to_matrix(measured[3:6]).T @ axis_angle_to_matrix(true[3:6])
        angle = float(np.arccos(np.clip((np.trace(turn) - 1.0) / 2.0, -1.0, 1.0)))
        places = np.delete(measured - true, [3, 4, 5])
        if np.abs(places).max() > _SAME_POSITION or angle > _SAME_ROTATION:
            raise SimulatorError(
                f"suite '{self._inner.suite}': proprio by the robot description is "
                f"{measured.round(4).tolist()}, that of the simulator {true.round(4).tolist()}: "
                "base_frame, tool_frame or the URDF are not those of its arm"
            )


def _ns(seconds: float) -> int:
    return round(seconds * NANOSECONDS)
