"""``Measured``: the simulator's arm as a robot's node knows it."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from specprune_ros.errors import SimulatorError
from specprune_ros.eval.worlds import Perturbation, Perturbed
from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.robot.velocity import TwistEstimator
from specprune_ros.sim.view import Measured

ACTIONS = np.random.default_rng(3).uniform(-0.8, 0.8, (12, 7))


def episode(world, seed=5):
    seen = [world.reset(1, seed)]
    for action in ACTIONS:
        world.step(action)
        seen.append(world.observe())
    return seen


def test_state_is_that_of_joint_states_and_filter(world):
    kinematics = ArmKinematics.from_urdf(
        world.robot_description(), world.base_frame, world.tool_frame)
    estimator = TwistEstimator(kinematics)
    for true, seen in zip(episode(world), episode(Measured(world))):
        sample = estimator.update(
            seen.stamp, seen.joint_names, seen.joint_positions, seen.joint_velocities)
        np.testing.assert_array_equal(seen.ee_twist, sample.twist)
        np.testing.assert_allclose(seen.proprio, true.proprio, atol=1e-9)
        np.testing.assert_array_equal(seen.joint_positions, true.joint_positions)
        np.testing.assert_array_equal(seen.images["wrist"], true.images["wrist"])
        assert seen.stamp == pytest.approx(true.stamp)


def test_each_episode_starts_anew(world):
    view = Measured(world)
    first = episode(view)
    for a, b in zip(first, episode(view)):
        assert a.stamp == b.stamp
        np.testing.assert_array_equal(a.ee_twist, b.ee_twist)
        np.testing.assert_array_equal(a.proprio, b.proprio)
    assert first[0].stamp == 0.0 and first[3].stamp == 0.15  # not 3 * 0.05


def test_looking_twice_changes_nothing(world):
    view = Measured(world)
    view.reset(1, 5)
    for action in ACTIONS:
        view.step(action)
        twice = view.observe(render=False), view.observe(render=False)
        np.testing.assert_array_equal(twice[0].ee_twist, twice[1].ee_twist)


def test_joint_noise_is_measured_as_it_is_made(world):
    noisy = Perturbed(world, Perturbation(joint_noise=0.01, obs_delay_ms=100))
    for made, seen in zip(episode(noisy), episode(Measured(noisy))):
        np.testing.assert_allclose(seen.proprio, made.proprio, atol=1e-9)
        np.testing.assert_array_equal(seen.joint_velocities, made.joint_velocities)
        assert seen.stamp == pytest.approx(made.stamp + 0.1)  # from the first observation on


class Moved:
    """A simulator whose proprio is that of another frame than its description says."""

    def __init__(self, world, **changes):
        self._world, self._changes = world, changes

    def __getattr__(self, name):
        return getattr(self._world, name)

    def reset(self, task, init_state):
        seen = self._world.reset(task, init_state)
        proprio = seen.proprio.copy()
        for index, shift in self._changes["shift"]:
            proprio[index] += shift
        return replace(seen, proprio=proprio)


@pytest.mark.parametrize("shift", [[(2, 0.005)], [(5, 0.05)], [(7, 0.01)]])
def test_a_description_of_another_arm_is_named(world, shift):
    with pytest.raises(SimulatorError, match="base_frame, tool_frame or the URDF"):
        Measured(Moved(world, shift=shift)).reset(1, 5)


def test_the_sign_of_an_orientation_is_no_difference(world):
    """Half a turn either way round is one rotation, though its vectors differ by 2 pi."""
    rotation = world.reset(1, 5).proprio[3:6]
    turn = -2 * np.pi * rotation / np.linalg.norm(rotation)
    Measured(Moved(world, shift=list(zip((3, 4, 5), turn)))).reset(1, 5)
