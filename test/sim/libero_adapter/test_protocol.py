"""The adapter against the published loop, on the double: the same in every number."""
from __future__ import annotations

import numpy as np
import pytest
from published import play

from specprune_ros.errors import ActionError, ConfigurationError, SimulatorError
from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.robot.proprio import ProprioSpec, proprio_vector
from specprune_ros.sim import make_simulator, suite_names
from specprune_ros.sim.base import numbered_episode

SIZE, TRIALS = 24, 4
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (12, 7))


def at(value):
    """Rotation vectors are computed another way here: equal to rounding."""
    return pytest.approx(value, abs=2e-8)


@pytest.fixture
def reference(config):
    """``reference(suite, task)``: trials as the published loop plays them."""
    return lambda suite, task, actions=ACTIONS: play(suite, task, TRIALS, actions, SIZE)


def assert_equal(seen, expected, images=True):
    proprio, pictures, _ = expected
    assert np.array_equal(seen.proprio[:3], proprio[:3])
    assert np.array_equal(seen.proprio[6:], proprio[6:])
    assert seen.proprio[3:6] == at(proprio[3:6])
    assert set(seen.images) == (set(pictures) if images else set())
    for name in seen.images:
        assert np.array_equal(seen.images[name], pictures[name]), name


@pytest.mark.parametrize("suite, task", [
    ("libero_spatial", 0), ("libero_object", 1), ("libero_goal", 0), ("libero_10", 0),
    ("libero_90", 1),
])
def test_every_trial_is_that_of_the_published_loop(make, reference, suite, task):
    expected = reference(suite, task)
    simulator = make(suite, SIZE)
    # Not in the published order: a trial does not depend on those before it.
    for trial in (2, 0, 3, 1):
        assert_equal(simulator.reset(task, trial), expected[trial][0])
        for action, after in zip(ACTIONS, expected[trial][1:]):
            assert simulator.step(action) is after[2]
            assert_equal(simulator.observe(), after)


def test_images_are_the_same_however_many_are_asked_for(make, reference, envs):
    expected = reference("libero_goal", 1)[1]
    simulator = make("libero_goal", SIZE)
    simulator.reset(1, 1)
    envs.RENDERS.clear()
    for number, (action, after) in enumerate(zip(ACTIONS, expected[1:])):
        simulator.step(action)
        wanted = number % 5 == 4
        assert_equal(simulator.observe(render=wanted), after, images=wanted)
    assert envs.RENDERS == ["agentview", "robot0_eye_in_hand"] * 2


def test_some_resets_of_the_double_fail_and_some_scenes_draw_more(reference, monkeypatch, envs):
    """So that the tests above say something."""
    samplers, load = [], envs.Manipulation._load_model

    def counted(self):
        load(self)
        samplers.append(len(self.object_property_initializers))

    monkeypatch.setattr(envs.Manipulation, "_load_model", counted)
    reference("libero_goal", 0, actions=ACTIONS[:0])
    assert samplers[-TRIALS:] != [1] * TRIALS  # one more at every load,
    assert samplers[-1] > TRIALS + 1  # and there were more loads than trials


def test_wait_steps_are_ten_with_an_open_gripper(make, envs):
    simulator = make()
    simulator.reset(0, 0)
    assert envs.STEPS == [[0, 0, 0, 0, 0, 0, -1]] * 10
    simulator.step(ACTIONS[0])
    assert envs.STEPS[10:] == [ACTIONS[0].tolist()]


def test_images_are_upright_by_a_half_turn(make):
    for image in make(size=24).reset(0, 0).images.values():
        assert image.dtype == np.uint8 and image.shape == (24, 24, 3)
        assert image.flags["C_CONTIGUOUS"]
        assert (np.diff(image[:, 0, 0].astype(int)) < 0).all()  # raw rows run upwards
        assert (np.diff(image[0, :, 1].astype(int)) < 0).all()


def test_observing_changes_nothing(make):
    simulator = make("libero_10")
    simulator.reset(0, 5)
    calm = [simulator.step(action) or simulator.observe(render=False) for action in ACTIONS]
    simulator.reset(0, 5)
    for action, before in zip(ACTIONS, calm):
        simulator.step(action)
        for _ in range(3):
            seen = simulator.observe()
        for name in ("proprio", "joint_positions", "joint_velocities", "ee_twist"):
            assert np.array_equal(getattr(seen, name), getattr(before, name))


@pytest.mark.parametrize("suite, task", [
    ("libero_spatial", 0), ("libero_object", 0), ("libero_10", 1), ("libero_90", 1)])
def test_proprio_from_joint_states_is_liberos(make, suite, task):
    """What vla_node computes from robot_description and joint_states, wherever the base stands."""
    simulator = make(suite)
    kinematics = ArmKinematics.from_urdf(
        simulator.robot_description(), simulator.base_frame, simulator.tool_frame)
    seen, moved = simulator.reset(task, 3), 0.0
    for action in ACTIONS:
        positions = dict(zip(seen.joint_names, seen.joint_positions))
        velocities = dict(zip(seen.joint_names, seen.joint_velocities))
        ours = proprio_vector(kinematics.pose(positions), positions, ProprioSpec())
        assert ours == pytest.approx(seen.proprio, abs=1e-9)
        assert kinematics.twist(positions, velocities) == pytest.approx(seen.ee_twist, abs=1e-9)
        moved = max(moved, np.linalg.norm(seen.ee_twist[:3]))
        simulator.step(action)
        seen = simulator.observe(render=False)
    assert moved > 0.05
    assert seen.stamp == pytest.approx(len(ACTIONS) * 0.05)


def test_twist_carries_the_tool(make):
    simulator = make()
    simulator.reset(0, 0)
    down = np.array([0.3, 0.2, -0.5, 0, 0, 0, -1])
    seen = []
    for _ in range(8):
        simulator.step(down)
        seen.append(simulator.observe(render=False))
    for before, after in zip(seen[3:], seen[4:]):
        mean = (after.proprio[:3] - before.proprio[:3]) / 0.05
        assert mean == pytest.approx((before.ee_twist[:3] + after.ee_twist[:3]) / 2, abs=0.02)


def test_success_is_done_of_the_step_and_of_the_present_state(make, reference):
    down = np.tile([0, 0, -1.0, 0, 0, 0, -1], (40, 1))
    expected = reference("libero_spatial", 0, down)[0]
    simulator = make(size=SIZE)
    simulator.reset(0, 0)
    assert not simulator.success()
    done = []
    for action, after in zip(down, expected[1:]):
        done.append(simulator.step(action))
        assert_equal(simulator.observe(), after)  # the burner begins to glow on the way
    assert done == [after[2] for after in expected[1:]]
    assert any(done) and not done[0] and simulator.success()
    for _ in range(40):
        up = simulator.step(np.array([0, 0, 1.0, 0, 0, 0, -1]))
    assert not up and not simulator.success()


def test_every_number_is_one_trial_of_one_task(make):
    numbers = [numbered_episode(number, 10, 50, "libero_goal") for number in range(500)]
    assert numbers[:11] == [(task, 0) for task in range(10)] + [(0, 1)]
    assert len(set(numbers)) == 500
    assert {trial for _, trial in numbers} == set(range(50))
    simulator = make("libero_object")
    by_number = simulator.reset(None, 2 * 7 + 1)
    instruction = simulator.instruction
    by_pair = simulator.reset(1, 7)
    assert simulator.instruction == instruction == simulator.tasks[1]
    assert np.array_equal(by_number.proprio, by_pair.proprio)
    assert np.array_equal(by_number.images["wrist"], by_pair.images["wrist"])


@pytest.mark.parametrize("task, state, message", [
    (None, 100, "100 episodes, 50 of each of its 2 tasks: they are numbered 0 to 99, and none 100"),
    (None, -1, "none -1"),
    (2, 0, "tasks 0 to 1, and none numbered 2"),
    (0, 50, "initial states 0 to 49, and none numbered 50"),
])
def test_what_the_suite_does_not_have_is_refused(make, task, state, message):
    with pytest.raises(ConfigurationError, match=message):
        make().reset(task, state)


def test_what_the_protocol_states(make):
    steps = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520,
             "libero_90": 400}
    assert set(steps) < set(suite_names())
    for suite, limit in steps.items():
        simulator = make(suite)
        assert (simulator.suite, simulator.max_steps) == (suite, limit)
        assert (simulator.trials, simulator.control_period) == (50, 0.05)
        assert (simulator.base_frame, simulator.tool_frame) == ("world", "panda_hand_tcp")
        assert simulator.versions == "hf-libero 0.1.4, robosuite 1.4.0, mujoco 3.8.1"
    assert make("libero_90").tasks == ("open the drawer", "pick up the book")  # lower case


def test_tasks_of_one_scene_are_those_that_differ_only_in_the_goal(make):
    goal, spatial = make("libero_goal"), make("libero_spatial")
    goal.reset(1, 0)
    spatial.reset(1, 0)
    assert goal.possible_tasks() == (0, 1)
    assert spatial.possible_tasks() == (1,)


def test_one_environment_at_a_time_and_closed_at_the_end(make, envs):
    simulator = make()
    simulator.reset(0, 0)
    simulator.reset(0, 1)
    assert envs.CLOSED == []
    simulator.reset(1, 0)
    assert len(envs.CLOSED) == 1
    simulator.close()
    simulator.close()
    assert len(envs.CLOSED) == 2
    with pytest.raises(SimulatorError, match="call reset"):
        simulator.observe()


def test_numpys_generator_is_left_alone(make):
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    simulator = make("libero_goal")
    simulator.reset(0, 3)
    simulator.step(ACTIONS[0])
    assert np.array_equal(np.random.random(3), expected)


@pytest.mark.parametrize("action", [np.zeros(6), np.full(7, np.nan), [[0.0] * 7]])
def test_actions_are_checked(make, action):
    simulator = make()
    simulator.reset(0, 0)
    with pytest.raises(ActionError, match="7 finite numbers"):
        simulator.step(action)


def test_before_a_reset_there_is_nothing(make):
    simulator = make()
    for use in (simulator.observe, simulator.success, lambda: simulator.instruction,
                lambda: simulator.step(np.zeros(7))):
        with pytest.raises(SimulatorError, match="call reset"):
            use()


def test_there_is_no_window_and_no_picture_of_any_size(libero):
    with pytest.raises(ConfigurationError, match="no window"):
        make_simulator("libero_goal", view=True)
    with pytest.raises(ConfigurationError, match="render_size"):
        make_simulator("libero_goal", render_size=5000)


def test_prints_of_libero_stay_off_standard_output(make, capsys):
    make("libero_goal").reset(0, 0)
    assert capsys.readouterr().out == ""
