"""Joint targets: they follow the tool's steps, and no limit of a joint is ever broken."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.errors import ConfigurationError
from specprune_ros.robot.joint_motion import ArmAstray, JointLimits, JointMotion, MotionRefused
from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.robot.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from specprune_ros.sim.tabletop.panda import HOME_POSITIONS
from specprune_ros.sim.tabletop.urdf import robot_description

DT = 0.05
HOME = np.array(HOME_POSITIONS)


@pytest.fixture(scope="module")
def panda():
    return ArmKinematics.from_urdf(robot_description(), "panda_link0", "panda_hand_tcp")


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_jacobian_is_the_derivative_of_the_pose(panda, seed):
    q = HOME + np.random.default_rng(seed).uniform(-0.3, 0.3, 7)
    jacobian, small = panda.jacobian(q), 1e-6
    position, rotation = panda.tool_pose(q)
    for joint in range(7):
        moved = q + small * (np.arange(7) == joint)
        there, turned = panda.tool_pose(moved)
        expected = np.concatenate([there - position, matrix_to_axis_angle(turned @ rotation.T)])
        np.testing.assert_allclose(jacobian[:, joint], expected / small, atol=1e-5)


def test_jacobian_from_another_base(panda):
    """Of the tool relative to a link in the middle of the arm."""
    part = ArmKinematics.from_urdf(robot_description(), "panda_link3", "panda_hand_tcp")
    q = dict(zip(panda.joint_names, HOME))
    here = part.select(q)
    speeds = np.linspace(-1, 1, len(here))
    twist = part.twist(q, dict(zip(part.joint_names, speeds)))
    np.testing.assert_allclose(part.jacobian(here) @ speeds, twist, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_targets_follow_the_steps_and_keep_every_limit(panda, seed):
    rng = np.random.default_rng(seed)
    limits = JointLimits(tracking=0.5)
    motion, q = JointMotion(panda, limits), HOME + rng.uniform(-0.2, 0.2, 7)
    lower, upper = panda.position_limits
    size = rng.choice([0.1, 0.5, 1.0]) * np.array([0.05] * 3 + [0.5] * 3)
    steady = rng.uniform(-size, size)
    for _ in range(30):
        step = steady if rng.random() < 0.7 else rng.uniform(-size, size)
        before = motion.target if motion.target is not None else q
        position, rotation = panda.tool_pose(before)
        try:
            target = motion.step(step, DT, q)
        except MotionRefused:
            np.testing.assert_array_equal(motion.target if motion.target is not None else q, before)
            continue
        there, turned = panda.tool_pose(target)
        np.testing.assert_allclose(there, position + step[:3], atol=2e-4)
        off = turned @ (axis_angle_to_matrix(step[3:]) @ rotation).T
        assert np.linalg.norm(matrix_to_axis_angle(off)) < 2e-3
        assert (np.abs(target - before) <= panda.velocity_limits * DT * (1 + 1e-6)).all()
        assert (target >= lower + limits.margin - 1e-9).all()
        assert (target <= upper - limits.margin + 1e-9).all()
        q = target + rng.uniform(-0.01, 0.01, 7)  # the arm follows, not exactly


def test_joint_that_reaches_its_limit_is_refused_and_may_come_back(panda):
    motion, lower = JointMotion(panda, JointLimits()), panda.position_limits[0]
    q = HOME.copy()
    q[5] = lower[5] + 0.03  # joint 6 near its limit
    refused = 0
    for _ in range(20):
        try:
            q = motion.step(np.array([0, 0, 0, 0, 0.05, 0]), DT, q)
        except MotionRefused:
            refused += 1
    other = JointMotion(panda, JointLimits())
    q2 = HOME.copy()
    q2[5] = lower[5] + 0.03
    for _ in range(20):
        try:
            q2 = other.step(np.array([0, 0, 0, 0, -0.05, 0]), DT, q2)
        except MotionRefused as error:
            refused += 1
            assert "panda_joint6" in str(error) or "reach" in str(error)
    assert refused > 0
    assert min(q[5], q2[5]) >= lower[5] + 0.02 - 1e-9
    assert max(q[5], q2[5]) > lower[5] + 0.1


def test_steps_add_up_on_targets_not_on_what_the_arm_does(panda):
    motion = JointMotion(panda, JointLimits(tracking=0.5))
    start, _ = panda.tool_pose(HOME)
    for _ in range(4):
        target = motion.step(np.array([0, 0, 0.01, 0, 0, 0]), DT, HOME)
    assert panda.tool_pose(target)[0][2] - start[2] == pytest.approx(0.04, abs=1e-3)


def test_arm_that_does_not_follow_is_a_fault_of_its_own_kind(panda):
    motion = JointMotion(panda, JointLimits(tracking=0.05))
    with pytest.raises(ArmAstray, match="away from where it was sent"):
        for _ in range(20):
            motion.step(np.array([0, 0, 0.01, 0, 0, 0]), DT, HOME)
    motion.forget()
    motion.step(np.array([0, 0, 0.01, 0, 0, 0]), DT, HOME)


def test_standing_still_holds_the_target(panda):
    motion = JointMotion(panda, JointLimits())
    target = motion.step(np.array([0, 0, 0.01, 0, 0, 0]), DT, HOME)
    sagging = target - 0.01
    np.testing.assert_array_equal(motion.step(np.zeros(6), DT, sagging), target)


@pytest.mark.parametrize("step, measured", [
    (np.full(6, math.nan), HOME), (np.zeros(6), np.full(7, math.nan)),
    (np.array([math.inf, 0, 0, 0, 0, 0]), HOME)])
def test_numbers_that_are_none_are_refused(panda, step, measured):
    motion = JointMotion(panda, JointLimits())
    with pytest.raises(MotionRefused, match="finite"):
        motion.step(step, DT, measured)
    assert motion.target is None


def test_step_out_of_reach_is_refused(panda):
    with pytest.raises(MotionRefused):
        JointMotion(panda, JointLimits()).step(np.array([2.0, 0, 0, 0, 0, 0]), DT, HOME)


@pytest.mark.parametrize("wrong", [{"margin": -0.1}, {"tracking": 0.0}, {"damping": math.nan},
                                   {"speed_scale": math.inf}])
def test_limits_that_make_no_sense(wrong):
    with pytest.raises(ConfigurationError):
        JointLimits(**wrong)
