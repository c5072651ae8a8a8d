"""The proprio vector of the checkpoint from the arm's pose and joint positions."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigurationError, JointStateError
from .kinematics import Pose
from .rotations import TOOL_DOWN_XYZW, align_quaternion_sign, quaternion_to_axis_angle


@dataclass(frozen=True)
class ProprioSpec:
    """How a checkpoint wants the state of the robot.

    gripper_joints: joints whose positions follow the pose, in this order.
    gripper_scale / gripper_offset: value = position * scale + offset, one per gripper joint.
        LIBERO has the right finger negative; Panda's URDF has both positive.
    orientation_reference_xyzw: fixes the sign of the quaternion, see robot/rotations.py.
    """

    gripper_joints: tuple[str, ...] = ("panda_finger_joint1", "panda_finger_joint2")
    gripper_scale: tuple[float, ...] = (1.0, -1.0)
    gripper_offset: tuple[float, ...] = (0.0, 0.0)
    orientation_reference_xyzw: tuple[float, float, float, float] = TOOL_DOWN_XYZW

    def __post_init__(self) -> None:
        counts = (len(self.gripper_joints), len(self.gripper_scale), len(self.gripper_offset))
        if len(set(counts)) != 1:
            raise ConfigurationError(
                "gripper_joints, gripper_scale and gripper_offset must have one length; "
                f"they have {counts[0]}, {counts[1]} and {counts[2]}"
            )
        values = (*self.gripper_scale, *self.gripper_offset, *self.orientation_reference_xyzw)
        if not all(math.isfinite(value) for value in values):
            raise ConfigurationError("gripper scale, offset and orientation must be finite")
        if len(self.orientation_reference_xyzw) != 4 or not any(self.orientation_reference_xyzw):
            raise ConfigurationError(
                f"orientation_reference_xyzw is {self.orientation_reference_xyzw}; "
                "it must be a quaternion (x, y, z, w)"
            )

    @property
    def size(self) -> int:
        """Length of the vector."""
        return 6 + len(self.gripper_joints)


def proprio_vector(
    pose: Pose, joint_positions: Mapping[str, float], spec: ProprioSpec
) -> np.ndarray:
    """Proprio [6 + n], float64: position (m), axis-angle (rad), gripper joints.

    Raises JointStateError for gripper joints that are missing or not finite.
    """
    missing = [name for name in spec.gripper_joints if name not in joint_positions]
    if missing:
        raise JointStateError(
            f"joint states lack the gripper joints {', '.join(missing)}; they have "
            f"{', '.join(joint_positions)}"
        )
    gripper = np.array([joint_positions[name] for name in spec.gripper_joints], dtype=np.float64)
    if not np.isfinite(gripper).all():
        raise JointStateError(
            f"position of the gripper joints {', '.join(spec.gripper_joints)} is not finite: "
            f"{gripper.tolist()}"
        )
    quaternion = align_quaternion_sign(pose.quaternion_xyzw, spec.orientation_reference_xyzw)
    return np.concatenate([
        pose.position,
        quaternion_to_axis_angle(quaternion),
        gripper * np.array(spec.gripper_scale) + np.array(spec.gripper_offset),
    ])
