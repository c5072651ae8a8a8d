"""Delta-pose actions to joint targets, as robosuite's OSC_POSE reads them.

goal = current pose + delta: the translation adds to the present position, the rotation vector
turns the present orientation about the axes of the base frame. A rotation of exactly zero keeps
the orientation goal that was set last. The goal is turned into joint targets once per control
period by one step of damped least squares; joint servos then follow.

Gains are 150 1/s^2 with critical damping per joint, OSC_POSE's (``osc_pose.json``), so the tool
follows that law: a held translation of 1 settles at 0.26 m/s, not at 0.05 m per period = 1 m/s.
"""
from __future__ import annotations

import math

import mujoco
import numpy as np

from ...robot.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from .mjcf import TOOL_SITE
from .panda import ARM_JOINTS, FINGER_JOINTS, FINGER_OPEN, HOME_POSITIONS

POSITION_SCALE = 0.05  # m per action unit
ROTATION_SCALE = 0.5  # rad per action unit
STIFFNESS = 150.0  # 1/s^2
WORKSPACE = np.array([[0.28, -0.34, 0.012], [0.75, 0.34, 0.55]])  # m, corners for the goal

_DAMPED_LEAST_SQUARES = 1e-4
_POSTURE_GAIN = 0.1  # pull of the redundant joint towards home


class PoseController:
    """Sets ``data.ctrl`` from actions; its only state is ``goal_rotation`` [3, 3]."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._site = model.site(TOOL_SITE).id
        self._qpos = np.array([model.joint(name).qposadr[0] for name in ARM_JOINTS])
        self._dofs = np.array([model.joint(name).dofadr[0] for name in ARM_JOINTS])
        self._arm = np.array([model.actuator(name).id for name in ARM_JOINTS])
        self._fingers = np.array([model.actuator(name).id for name in FINGER_JOINTS])
        self._limits = np.array([model.joint(name).range for name in ARM_JOINTS]).T
        self._home = np.array(HOME_POSITIONS)
        self._jacobian = np.zeros((6, model.nv))
        self.goal_rotation = np.eye(3)
        self._set_gains()

    def _set_gains(self) -> None:
        """Servo gains from each joint's inertia in the home position."""
        data = mujoco.MjData(self._model)
        data.qpos[self._qpos] = self._home
        mujoco.mj_forward(self._model, data)
        for actuator, dof in zip(self._arm, self._dofs, strict=True):
            unit, column = np.zeros(self._model.nv), np.zeros(self._model.nv)
            unit[dof] = 1.0
            mujoco.mj_mulM(self._model, data, column, unit)
            stiffness = STIFFNESS * column[dof]
            damping = 2.0 * math.sqrt(STIFFNESS) * column[dof]
            self._model.actuator_gainprm[actuator, 0] = stiffness
            self._model.actuator_biasprm[actuator, 1:3] = -stiffness, -damping

    def start(self, data: mujoco.MjData, arm_positions: np.ndarray) -> None:
        """Put the arm at rest at ``arm_positions`` [7] with open fingers."""
        data.qpos[self._qpos] = arm_positions
        for name in FINGER_JOINTS:
            data.qpos[self._model.joint(name).qposadr[0]] = FINGER_OPEN
        data.ctrl[self._arm] = arm_positions
        data.ctrl[self._fingers] = FINGER_OPEN
        mujoco.mj_forward(self._model, data)
        self.goal_rotation = data.site_xmat[self._site].reshape(3, 3).copy()

    def apply(self, data: mujoco.MjData, action: np.ndarray) -> None:
        """Set the targets of one control period; ``action`` [7] is finite and clipped here."""
        action = np.clip(action, -1.0, 1.0)
        position = data.site_xpos[self._site]
        rotation = data.site_xmat[self._site].reshape(3, 3)
        goal = np.clip(position + POSITION_SCALE * action[:3], *WORKSPACE)
        turn = ROTATION_SCALE * action[3:6]
        if turn.any():
            self.goal_rotation = axis_angle_to_matrix(turn) @ rotation
        error = np.concatenate(
            [goal - position, matrix_to_axis_angle(self.goal_rotation @ rotation.T)]
        )
        targets = data.qpos[self._qpos] + self._joint_step(data, error)
        data.ctrl[self._arm] = np.clip(targets, *self._limits)
        if action[6] != 0.0:  # robosuite takes the sign; zero keeps the last command
            data.ctrl[self._fingers] = 0.0 if action[6] > 0.0 else FINGER_OPEN

    def _joint_step(self, data: mujoco.MjData, error: np.ndarray) -> np.ndarray:
        """Joint displacement [7] for a pose error [6], posture in the null space."""
        mujoco.mj_jacSite(
            self._model, data, self._jacobian[:3], self._jacobian[3:], self._site
        )
        jacobian = self._jacobian[:, self._dofs]  # [6, 7]
        damped = jacobian @ jacobian.T + _DAMPED_LEAST_SQUARES * np.eye(6)
        posture = _POSTURE_GAIN * (self._home - data.qpos[self._qpos])
        return posture + jacobian.T @ np.linalg.solve(damped, error - jacobian @ posture)
