"""Perturbations and controls: seeded, really applied, and nothing else changed."""
from __future__ import annotations

import numpy as np
import pytest

from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.worlds import Blank, Perturbation, Perturbed, WrongInstruction
from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.sim import make_simulator

SEED, TASK = 7, 2
ACTIONS = np.random.default_rng(0).uniform(-0.6, 0.6, (6, 7))


@pytest.fixture(scope="module")
def world():
    simulator = make_simulator("tabletop", render_size=32)
    yield simulator
    simulator.close()


def episode(world, actions=ACTIONS, seed=SEED):
    """Observations before each action and after the last one."""
    seen = [world.reset(TASK, seed)]
    for action in actions:
        world.step(action)
        seen.append(world.observe())
    return seen


def assert_same(a, b):
    assert a.stamp == pytest.approx(b.stamp)
    assert list(a.images) == list(b.images)
    for name in a.images:
        np.testing.assert_array_equal(a.images[name], b.images[name])
    for name in ("proprio", "joint_positions", "joint_velocities", "ee_twist"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("text", [
    "noise=1", "image_noise", "image_noise=-1", "joint_noise=nan", "image_noise=1,image_noise=2",
    "action_delay_steps=1.5", "image_noise=x",
])
def test_what_is_no_perturbation_is_refused(text):
    with pytest.raises(ConfigurationError, match="noise|delay"):
        Perturbation.parse(text)


def test_label_says_what_parse_takes():
    text = "image_noise=8,joint_noise=0.002,obs_delay_ms=100,action_delay_steps=2"
    assert Perturbation.parse(text).label == text
    assert Perturbation.parse(" action_delay_steps=1, ").label == "action_delay_steps=1"
    assert Perturbation.parse("") == Perturbation()


def test_a_delay_of_part_of_a_period_is_refused(world):
    with pytest.raises(ConfigurationError, match="whole number of control periods of 50 ms"):
        Perturbed(world, Perturbation(obs_delay_ms=70))


def test_no_perturbation_changes_nothing(world):
    for clean, seen in zip(episode(world), episode(Perturbed(world, Perturbation()))):
        assert_same(clean, seen)


def test_images_get_noise_of_the_size_asked_for(world):
    perturbed = Perturbed(world, Perturbation(image_noise=6))
    for clean, noisy in zip(episode(world), episode(perturbed)):
        for name, image in clean.images.items():
            middle = (image > 40) & (image < 215)  # where nothing is clipped
            difference = noisy.images[name].astype(float)[middle] - image[middle]
            assert noisy.images[name].dtype == np.uint8
            assert difference.std() == pytest.approx(6, rel=0.15)
            assert abs(difference.mean()) < 0.6
        np.testing.assert_array_equal(clean.proprio, noisy.proprio)


def test_joint_noise_reaches_pose_and_twist(world):
    kinematics = ArmKinematics.from_urdf(
        world.robot_description(), world.base_frame, world.tool_frame)
    clean = episode(world)
    noisy = episode(Perturbed(world, Perturbation(joint_noise=0.01)))
    noise = np.array([n.joint_positions - c.joint_positions for c, n in zip(clean, noisy)])
    assert noise[:, :7].std() == pytest.approx(0.01, rel=0.3) and not noise[:, 7:].any()
    for before, now in zip(range(6), range(1, 7)):
        c, n = clean[now], noisy[now]
        positions = dict(zip(n.joint_names, n.joint_positions))
        velocities = dict(zip(n.joint_names, n.joint_velocities))
        np.testing.assert_allclose(
            n.proprio[:3], kinematics.pose(positions).position, atol=1e-5)
        np.testing.assert_allclose(
            n.joint_velocities - c.joint_velocities, (noise[now] - noise[before]) / 0.05)
        np.testing.assert_allclose(
            n.ee_twist, kinematics.twist(positions, velocities), atol=1e-4)
        np.testing.assert_array_equal(n.proprio[6:], c.proprio[6:])
        np.testing.assert_array_equal(n.images["primary"], c.images["primary"])


def test_noise_is_that_of_the_initial_state_and_the_step(world):
    perturbation = Perturbation(image_noise=6, joint_noise=0.01)
    first = episode(Perturbed(world, perturbation))
    for a, b in zip(first, episode(Perturbed(world, perturbation))):
        assert_same(a, b)
    # Another method acts otherwise, and meets the same noise.
    other, clean = (episode(w, 0.3 * ACTIONS) for w in (Perturbed(world, perturbation), world))
    for a, b, c, d in zip(first, episode(world), other, clean):
        np.testing.assert_allclose(
            a.joint_positions - b.joint_positions, c.joint_positions - d.joint_positions,
            atol=1e-12)
    elsewhere = episode(Perturbed(world, perturbation), seed=SEED + 1)
    here = [o.joint_positions[0] - c.joint_positions[0] for o, c in zip(first, episode(world))]
    there = [o.joint_positions[0] - c.joint_positions[0]
             for o, c in zip(elsewhere, episode(world, seed=SEED + 1))]
    assert np.abs(np.array(here) - there).min() > 0


def test_observations_come_late_with_the_stamp_of_their_exposure(world):
    clean = episode(world)
    late = episode(Perturbed(world, Perturbation(obs_delay_ms=100)))
    for step, seen in enumerate(late):
        assert seen.stamp == pytest.approx((step - 2) * 0.05)
        true = clean[max(0, step - 2)]
        np.testing.assert_array_equal(seen.images["wrist"], true.images["wrist"])
        np.testing.assert_array_equal(seen.proprio, true.proprio)


def test_actions_are_executed_late(world):
    idle = np.array([0.0] * 6 + [-1.0])
    delayed = episode(Perturbed(world, Perturbation(action_delay_steps=2)))
    expected = episode(world, [idle, idle, *ACTIONS[:4]])
    for a, b in zip(delayed, expected):
        assert_same(a, b)


def test_blank_hides_the_pictures_only(world):
    for clean, seen in zip(episode(world), episode(Blank(world))):
        assert {n: i.shape for n, i in seen.images.items()} == {
            n: i.shape for n, i in clean.images.items()}
        assert not any(image.any() for image in seen.images.values())
        np.testing.assert_array_equal(seen.proprio, clean.proprio)


def test_wrong_instruction_is_another_one_of_the_scene(world):
    view, told = WrongInstruction(world), []
    for seed in range(12):
        view.reset(TASK, seed)
        assert world.instruction == world.tasks[TASK] != view.instruction
        possible = [world.tasks[index] for index in world.possible_tasks()]
        assert view.instruction in possible
        told.append(view.instruction)
    view.reset(TASK, 0)
    assert view.instruction == told[0] and len(set(told)) > 2
    # Success stays that of the right task.
    assert view.success() == world.success()


def test_one_task_leaves_no_wrong_instruction():
    class OneTask:
        suite, tasks, instruction = "one", ("wait",), "wait"

        def reset(self, task, init_state):
            return None

    with pytest.raises(ConfigurationError, match="no other instruction"):
        WrongInstruction(OneTask()).reset(0, 0)


def test_views_add_up(world):
    both = Blank(Perturbed(world, Perturbation(image_noise=6, obs_delay_ms=50)))
    seen = episode(both)[1]
    assert seen.stamp == 0.0 and not seen.images["primary"].any()
    assert both.control_period == world.control_period and both.suite == world.suite
