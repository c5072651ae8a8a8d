"""Node and evaluation give a policy the same arm, to the last bit, whatever the time of day."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vla_rig import JOINTS, PERIOD, URDF

from specprune_ros.ros.arm_state import ArmTracker, JointReading
from specprune_ros.ros.vla_parameters import VlaSettings
from specprune_ros.sim.base import SimObservation
from specprune_ros.sim.view import Measured


class World:
    """Two joints that move as told; positions and velocities are read off a list."""

    suite, base_frame, tool_frame = "made up", "panda_link0", "panda_hand_tcp"
    control_period = 0.05

    def __init__(self, motion):
        self._motion = motion

    def robot_description(self):
        return URDF

    def reset(self, task, init_state):
        self._step = 0
        return self.observe()

    def step(self, action):
        self._step += 1

    def observe(self, render=True):
        slide, turn, v_slide, v_turn = self._motion[self._step]
        return SimObservation(
            stamp=self._step * self.control_period, images={},
            proprio=np.array([slide, 0, 0.5, np.pi * np.cos(turn / 2), -np.pi * np.sin(turn / 2), 0,
                              0.04, -0.03]),
            joint_names=JOINTS, joint_positions=np.array([slide, turn, 0.04, 0.03]),
            joint_velocities=np.array([v_slide, v_turn, 0.0, 0.0]), ee_twist=np.zeros(6))


VALUES = st.floats(-2.0, 2.0)


@given(st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), min_size=2, max_size=12),
       st.integers(0, 2 * 10**18))
def test_state_of_the_arm_is_the_same_in_both(motion, start):
    view = Measured(World(motion))
    arm = ArmTracker(VlaSettings(), with_proprio=True)
    arm.describe(URDF)
    seen = view.reset(0, 0)
    for step, (slide, turn, *velocities) in enumerate(motion):
        if step:
            view.step(None)
            seen = view.observe()
        stamp = start + step * PERIOD
        arm.add(JointReading(stamp, JOINTS, [slide, turn, 0.04, 0.03], [*velocities, 0.0, 0.0]))
        sample = arm.samples.nearest(stamp)[1]
        np.testing.assert_array_equal(sample.proprio, seen.proprio)
        np.testing.assert_array_equal(sample.twist, seen.ee_twist)


def test_a_new_episode_forgets_the_motion_in_both():
    motion = [(0.0, 0.0, 1.0, 0.0)] * 4
    view = Measured(World(motion))
    arm = ArmTracker(VlaSettings(), with_proprio=True)
    arm.describe(URDF)
    for episode in range(2):
        seen = view.reset(0, 0)
        arm.forget_motion()
        stamp = (1 + 100 * episode) * PERIOD
        arm.add(JointReading(stamp, JOINTS, [0.0, 0.0, 0.04, 0.03], [1.0, 0.0, 0.0, 0.0]))
        for at in (arm.samples.nearest(stamp)[1].twist, seen.ee_twist):
            assert at[0] == pytest.approx(1.0)
