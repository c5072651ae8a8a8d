"""LIBERO's arm as data: robosuite 1.4's Panda on a base that stands where the scene puts it.

Offsets are those of robosuite's ``robots/panda/robot.xml`` and ``grippers/panda_gripper.xml``,
which differ from Franka's at the hand; :func:`check_arm` compares them with the arm of a running
environment. Poses of LIBERO refer to the world, and the base stands elsewhere on a table, on the
floor and in a kitchen. Three prismatic joints that nothing drives therefore carry it: one
description is true in every scene, and every joint state says where the base is.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...errors import SimulatorError
from ...robot.rotations import axis_angle_to_matrix
from ..tabletop.panda import ARM_JOINTS, FINGER_JOINTS, HAND_LINK, LINKS, Joint, Link
from ..tabletop.urdf import robot_description
from .suites import BASE_FRAME, TOOL_FRAME

BASE_JOINTS = ("base_x", "base_y", "base_z")
JOINT_NAMES = BASE_JOINTS + ARM_JOINTS + FINGER_JOINTS

_BASE_RANGE = 10.0  # m
_TOLERANCE = 1e-5  # m, and of the elements of a rotation matrix
# The offsets of robosuite where they are not Franka's.
_ROBOSUITE = {
    "panda_link8": {"xyz": (0.0, 0.0, 0.1065)},
    HAND_LINK: {"rpy": (0.0, 0.0, -2.0 * math.atan2(0.383, 0.924))},
    "panda_leftfinger": {"xyz": (0.0, 0.0, 0.0524)},
    "panda_rightfinger": {"xyz": (0.0, 0.0, 0.0524)},
    TOOL_FRAME: {"xyz": (0.0, 0.0, 0.097)},
}


def _links() -> tuple[Link, ...]:
    links, parent = [Link(BASE_FRAME, None)], BASE_FRAME
    for index, name in enumerate(BASE_JOINTS):
        axis = tuple(float(index == i) for i in range(3))
        joint = Joint(name, "prismatic", axis, -_BASE_RANGE, _BASE_RANGE, 0.0, 0.0, 0.0)
        last = index == len(BASE_JOINTS) - 1
        links.append(Link(LINKS[0].name if last else f"{name}_link", parent, joint=joint,
                          shapes=LINKS[0].shapes if last else ()))
        parent = links[-1].name
    links += [replace(link, **_ROBOSUITE.get(link.name, {})) for link in LINKS[1:]]
    return tuple(links)


_LINKS = _links()


def arm_description() -> str:
    """URDF from ``world`` to the tool, with the joints JOINT_NAMES."""
    return robot_description(_LINKS)


def tool_pose(positions: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] (m) and rotation matrix [3, 3] of the tool in the world, from JOINT_NAMES."""
    by_name, chain = {link.name: link for link in _LINKS}, []
    name: str | None = TOOL_FRAME
    while name is not None:
        chain.append(by_name[name])
        name = by_name[name].parent
    position, rotation = np.zeros(3), np.eye(3)
    for link in reversed(chain):
        position = position + rotation @ np.array(link.xyz)
        for axis, angle in zip(np.eye(3)[::-1], link.rpy[::-1]):  # fixed axes: z, y, x
            rotation = rotation @ axis_angle_to_matrix(axis * angle)
        if link.joint is None:
            continue
        way = np.array(link.joint.axis) * positions[link.joint.name]
        if link.joint.kind == "prismatic":
            position = position + rotation @ way
        else:
            rotation = rotation @ axis_angle_to_matrix(way)
    return position, rotation


def check_arm(
    positions: Mapping[str, float], tool_position: np.ndarray, tool_rotation: np.ndarray
) -> None:
    """Raise SimulatorError unless the environment's tool is where this description has it."""
    ours = tool_pose(positions)
    errors = [float(np.abs(a - b).max()) for a, b in zip(ours, (tool_position, tool_rotation))]
    if max(errors) > _TOLERANCE:
        raise SimulatorError(
            "LIBERO's arm is not the Panda of robosuite 1.4: its tool is "
            f"{np.round(tool_position, 4).tolist()}, by the description it would be "
            f"{np.round(ours[0], 4).tolist()} (rotation differs by {errors[1]:.2g}). Install "
            "robosuite==1.4.0"
        )
