"""The arm as data: kinematics and limits of the Franka Emika Panda, bodies of primitive shapes.

Offsets, axes and joint ranges are those of ``franka_description`` (panda_arm.xacro, hand.xacro);
velocity and effort limits likewise. Shapes and masses are our own.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

from .shapes import DARK, GREY, WHITE, Box, Capsule, Cylinder, Shape, Vector

BASE_FRAME = "panda_link0"
TOOL_FRAME = "panda_hand_tcp"
HAND_LINK = "panda_hand"
FINGER_OPEN = 0.04  # m, travel of one finger

ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("panda_finger_joint1", "panda_finger_joint2")
JOINT_NAMES = ARM_JOINTS + FINGER_JOINTS

# Tool at (0.46, 0, 0.28) m, pointing down (rad).
HOME_POSITIONS = (0.0, -0.2023, 0.0, -2.4288, 0.0, 2.2265, math.pi / 4)


@dataclass(frozen=True)
class Joint:
    """A joint; effort N m or N, velocity rad/s or m/s.

    armature is the inertia that the drive adds. It outweighs the links, so each joint answers a
    step alike (see control.py).
    """

    name: str
    kind: str  # "revolute" or "prismatic"
    axis: Vector
    lower: float
    upper: float
    effort: float
    velocity: float
    armature: float


@dataclass(frozen=True)
class Link:
    """A link and the joint that carries it; ``joint`` None is a fixed mount.

    xyz, rpy: pose in the parent link (m; rad about fixed x, y, z, as in URDF).
    """

    name: str
    parent: str | None
    xyz: Vector = (0.0, 0.0, 0.0)
    rpy: Vector = (0.0, 0.0, 0.0)
    joint: Joint | None = None
    mass: float = 0.0
    shapes: tuple[Shape, ...] = ()


def _arm_joint(number: int, lower: float, upper: float) -> Joint:
    large = number <= 4
    return Joint(
        f"panda_joint{number}", "revolute", (0.0, 0.0, 1.0), lower, upper,
        effort=87.0 if large else 12.0,
        velocity=2.175 if large else 2.61,
        armature=2.0 if large else 0.5,
    )


def _finger_joint(number: int, side: float) -> Joint:
    return Joint(
        f"panda_finger_joint{number}", "prismatic", (0.0, side, 0.0), 0.0, FINGER_OPEN,
        effort=20.0, velocity=0.2, armature=0.1,
    )


def _finger_shapes(side: float) -> tuple[Shape, ...]:
    """A finger that reaches 8 mm below the tool point; ``side`` is +1 for the left one."""
    return (
        Box((0.010, 0.006, 0.026), (0.0, side * 0.006, 0.027), DARK, collides=True),
        Box((0.011, 0.007, 0.012), (0.0, side * 0.014, 0.010), GREY),
    )


_QUARTER = math.pi / 2

LINKS: tuple[Link, ...] = (
    Link("panda_link0", None, mass=3.0, shapes=(
        Cylinder(0.085, 0.012, (0.0, 0.0, 0.012), GREY),
        Capsule((-0.06, 0.0, 0.05), (0.0, 0.0, 0.05), 0.05, WHITE),
        Cylinder(0.065, 0.07, (0.0, 0.0, 0.07), WHITE),
    )),
    Link("panda_link1", "panda_link0", (0.0, 0.0, 0.333), joint=_arm_joint(1, -2.8973, 2.8973),
         mass=0.8, shapes=(
             Cylinder(0.062, 0.002, (0.0, 0.0, -0.192), DARK),
             Capsule((0.0, 0.0, -0.13), (0.0, 0.0, 0.0), 0.06, WHITE),
         )),
    Link("panda_link2", "panda_link1", rpy=(-_QUARTER, 0.0, 0.0),
         joint=_arm_joint(2, -1.7628, 1.7628), mass=0.8, shapes=(
             Cylinder(0.062, 0.065, (0.0, 0.0, 0.0), GREY),
             Capsule((0.0, -0.03, 0.0), (0.0, -0.15, 0.0), 0.058, WHITE),
         )),
    Link("panda_link3", "panda_link2", (0.0, -0.316, 0.0), (_QUARTER, 0.0, 0.0),
         joint=_arm_joint(3, -2.8973, 2.8973), mass=0.6, shapes=(
             Cylinder(0.059, 0.002, (0.0, 0.0, -0.115), DARK),
             Capsule((0.0, 0.0, -0.06), (0.03, 0.0, -0.01), 0.053, WHITE),
             Capsule((0.03, 0.0, -0.01), (0.0825, 0.0, 0.0), 0.050, WHITE),
         )),
    Link("panda_link4", "panda_link3", (0.0825, 0.0, 0.0), (_QUARTER, 0.0, 0.0),
         joint=_arm_joint(4, -3.0718, -0.0698), mass=0.6, shapes=(
             Cylinder(0.053, 0.058, (0.0, 0.0, 0.0), GREY),
             Capsule((0.0, 0.0, 0.0), (-0.0825, 0.06, 0.0), 0.048, WHITE),
             Capsule((-0.0825, 0.06, 0.0), (-0.0825, 0.12, 0.0), 0.048, WHITE),
         )),
    Link("panda_link5", "panda_link4", (-0.0825, 0.384, 0.0), (-_QUARTER, 0.0, 0.0),
         joint=_arm_joint(5, -2.8973, 2.8973), mass=0.5, shapes=(
             Cylinder(0.050, 0.002, (0.0, 0.0, -0.225), DARK),
             Capsule((0.0, 0.0, -0.19), (0.0, 0.03, -0.10), 0.042, WHITE),
             Capsule((0.0, 0.03, -0.10), (0.0, 0.0, 0.0), 0.042, WHITE),
         )),
    Link("panda_link6", "panda_link5", rpy=(_QUARTER, 0.0, 0.0),
         joint=_arm_joint(6, -0.0175, 3.7525), mass=0.4, shapes=(
             Cylinder(0.046, 0.052, (0.0, 0.0, 0.0), GREY),
             Capsule((0.0, 0.0, 0.0), (0.088, 0.0, 0.0), 0.043, WHITE),
         )),
    Link("panda_link7", "panda_link6", (0.088, 0.0, 0.0), (_QUARTER, 0.0, 0.0),
         joint=_arm_joint(7, -2.8973, 2.8973), mass=0.3, shapes=(
             Cylinder(0.043, 0.046, (0.0, 0.0, 0.045), WHITE),
             Cylinder(0.036, 0.008, (0.0, 0.0, 0.099), GREY),
         )),
    Link("panda_link8", "panda_link7", (0.0, 0.0, 0.107)),
    Link(HAND_LINK, "panda_link8", rpy=(0.0, 0.0, -math.pi / 4), mass=0.3, shapes=(
        Box((0.016, 0.098, 0.024), (0.0, 0.0, 0.034), WHITE),
        Box((0.013, 0.094, 0.004), (0.0, 0.0, 0.056), GREY),
    )),
    Link("panda_leftfinger", HAND_LINK, (0.0, 0.0, 0.0584), joint=_finger_joint(1, 1.0),
         mass=0.05, shapes=_finger_shapes(1.0)),
    Link("panda_rightfinger", HAND_LINK, (0.0, 0.0, 0.0584), joint=_finger_joint(2, -1.0),
         mass=0.05, shapes=_finger_shapes(-1.0)),
    Link(TOOL_FRAME, HAND_LINK, (0.0, 0.0, 0.1034)),
)
