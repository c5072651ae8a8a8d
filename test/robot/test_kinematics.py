import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import TWO_ARMS, urdf

from specprune_ros.errors import ConfigurationError, JointStateError
from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.robot.rotations import matrix_to_axis_angle, quaternion_to_matrix

angle = st.floats(-2.9, 2.9, allow_subnormal=False)
speed = st.floats(-2.0, 2.0, allow_subnormal=False)


@pytest.fixture(scope="module")
def left_arm():
    return ArmKinematics.from_urdf(TWO_ARMS, "torso", "left_tool")


@given(angle, angle)
def test_pose_of_a_planar_arm(left_arm, a, b):
    pose = left_arm.pose({"left1": a, "left2": b})
    expected = [math.cos(a) + math.cos(a + b), 1 + math.sin(a) + math.sin(a + b), 0.0]
    assert np.allclose(pose.position, expected, atol=1e-12)
    turned = quaternion_to_matrix(pose.quaternion_xyzw)[:2, 0]
    assert np.allclose(turned, [math.cos(a + b), math.sin(a + b)], atol=1e-12)


@given(angle, angle, speed, speed)
def test_twist_of_a_planar_arm(left_arm, a, b, va, vb):
    twist = left_arm.twist({"left1": a, "left2": b}, {"left1": va, "left2": vb})
    expected = [
        -va * math.sin(a) - (va + vb) * math.sin(a + b),
        va * math.cos(a) + (va + vb) * math.cos(a + b),
        0, 0, 0, va + vb,
    ]
    assert np.allclose(twist, expected, atol=1e-12)


def test_only_the_joints_between_the_frames_are_needed(left_arm):
    assert left_arm.joint_names == ("left1", "left2")
    whole = ArmKinematics.from_urdf(TWO_ARMS, "world", "left_tool")
    assert whole.joint_names == ("lift", "left1", "left2")
    across = ArmKinematics.from_urdf(TWO_ARMS, "right_upper", "left_tool")
    assert set(across.joint_names) == {"left1", "left2", "right1"}


@given(st.tuples(*[angle] * 4), st.tuples(*[speed] * 4))
def test_any_link_may_be_the_base_also_one_that_moves(q, v):
    names = ("lift", "left1", "left2", "right1")
    across = ArmKinematics.from_urdf(TWO_ARMS, "right_upper", "left_tool")
    positions, velocities = dict(zip(names, q)), dict(zip(names, v))
    twist = across.twist(positions, velocities)
    step = 1e-6
    before, after = (
        across.pose({name: p + s * step * w for name, p, w in zip(names, q, v)})
        for s in (-0.5, 0.5)
    )
    rotations = [quaternion_to_matrix(pose.quaternion_xyzw) for pose in (before, after)]
    difference = np.concatenate([
        after.position - before.position, matrix_to_axis_angle(rotations[1] @ rotations[0].T)
    ])
    assert np.allclose(twist, difference / step, atol=1e-6)


def test_base_and_tool_may_be_the_same_link(left_arm):
    still = ArmKinematics.from_urdf(TWO_ARMS, "torso", "torso")
    assert still.joint_names == ()
    assert np.allclose(still.pose({}).position, 0) and np.allclose(still.twist({}, {}), 0)


def test_results_are_not_overwritten_by_the_next_call(left_arm):
    first = left_arm.pose({"left1": 0.0, "left2": 0.0})
    left_arm.pose({"left1": 1.0, "left2": 1.0})
    assert np.allclose(first.position, [2, 1, 0])


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not well-formed XML"),
        ("<robot name='x'><link", "not well-formed XML"),
        ("<sdf/>", "root element is <sdf>"),
        (urdf(("a", "revolute", "x", "y", "0 0 0", "0 0 1"),
              ("b", "revolute", "z", "y", "0 0 0", "0 0 1")), "no valid URDF"),
        (urdf(("a", "bent", "x", "y", "0 0 0", "0 0 1")), "no valid URDF"),
    ],
)
def test_broken_descriptions_are_named(xml, message):
    with pytest.raises(ConfigurationError, match=message):
        ArmKinematics.from_urdf(xml, "x", "y")


@pytest.mark.parametrize("frames", [("nowhere", "left_tool"), ("torso", "nowhere")])
def test_an_unknown_frame_lists_the_links(frames):
    with pytest.raises(ConfigurationError, match="'nowhere' is no link.*left_lower, left_tool"):
        ArmKinematics.from_urdf(TWO_ARMS, *frames)


def test_a_joint_name_is_no_frame():
    with pytest.raises(ConfigurationError, match="tool_frame 'left2' is no link"):
        ArmKinematics.from_urdf(TWO_ARMS, "torso", "left2")


def test_joints_of_several_degrees_of_freedom_are_refused_only_on_the_way():
    floating = urdf(
        ("drift", "floating", "map", "base", "0 0 0", "0 0 1"),
        ("a", "revolute", "base", "tool", "0 0 0", "0 0 1"),
    )
    assert ArmKinematics.from_urdf(floating, "base", "tool").joint_names == ("a",)
    with pytest.raises(ConfigurationError, match="'drift' .* has 6 degrees of freedom"):
        ArmKinematics.from_urdf(floating, "map", "tool")


def test_missing_joints_are_listed(left_arm):
    with pytest.raises(JointStateError, match="lack the position of left1, left2"):
        left_arm.pose({"right1": 0.0})
    with pytest.raises(JointStateError, match="lack the velocity of left2"):
        left_arm.twist({"left1": 0.0, "left2": 0.0}, {"left1": 0.0})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_joints_that_are_not_finite_are_named(left_arm, value):
    with pytest.raises(JointStateError, match=f"position is not finite: left2 = {value}"):
        left_arm.pose({"left1": 0.0, "left2": value})
    with pytest.raises(JointStateError, match="velocity is not finite: left1"):
        left_arm.twist({"left1": 0.0, "left2": 0.0}, {"left1": value, "left2": 0.0})
    assert np.allclose(left_arm.pose({"left1": 0.0, "left2": 0.0}).position, [2, 1, 0])


def test_nan_elsewhere_does_not_matter(left_arm):
    left_arm.pose({"left1": 0.0, "left2": 0.0, "finger": math.nan})
