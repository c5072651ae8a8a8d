import re

import numpy as np
import pytest
from helpers import STILL, action, same, solve

from specprune_ros.errors import ActionError, ConfigurationError, SimulatorError
from specprune_ros.sim import make_simulator, suite_names
from specprune_ros.sim.tabletop import world as world_module

GRAMMAR = {
    "tabletop": r"pick up the \w+ cube and place it on the (plate|tray)",
    "tabletop_hard": r"pick up the \w+ cube and place it on the (plate|tray|mat)",
    "tabletop_shift": r"(pick up the \w+ cube and place it on the (plate|tray)"
    r"|push the \w+ cube onto the mat)",
}


def test_unknown_suite_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match="'kitchen'; known: tabletop, tabletop_hard"):
        make_simulator("kitchen")


@pytest.mark.parametrize("size", [0, -1, 5000])
def test_render_size_is_checked(size):
    with pytest.raises(ConfigurationError, match="render_size"):
        make_simulator("tabletop", render_size=size)


def test_what_the_protocol_states(any_world):
    assert any_world.suite in suite_names()
    assert any_world.control_period == 0.05 and any_world.max_steps == 160
    assert (any_world.base_frame, any_world.tool_frame) == ("panda_link0", "panda_hand_tcp")


def test_instructions_follow_the_grammar(any_world):
    assert len(set(any_world.tasks)) == len(any_world.tasks)
    colours = any_world.spec.colours
    assert len(any_world.tasks) == len(colours) * len(any_world.spec.destinations)
    for instruction in any_world.tasks:
        assert instruction == instruction.lower()
        assert re.fullmatch(GRAMMAR[any_world.suite], instruction)


def test_default_suite_has_eight_tasks(world):
    assert world.tasks[0] == "pick up the red cube and place it on the plate"
    assert len(world.tasks) == 8


def test_reset_takes_the_task_it_is_given_or_lets_the_seed_choose(world):
    for index, instruction in enumerate(world.tasks):
        world.reset(index, 3, render=False)
        assert world.instruction == instruction
        assert index in world.possible_tasks()
    chosen = set()
    for seed in range(30):
        world.reset(None, seed, render=False)
        chosen.add(world.instruction)
    assert chosen <= set(world.tasks) and len(chosen) > 5


@pytest.mark.parametrize(("task", "seed", "message"), [
    (8, 0, "task 8 is not in suite 'tabletop'; it has tasks 0 to 7"),
    (-1, 0, "task -1 is not"),
    (0, -5, "init_state is -5"),
])
def test_reset_out_of_range(world, task, seed, message):
    with pytest.raises(ConfigurationError, match=message):
        world.reset(task, seed)


def test_before_the_first_reset_nothing_runs():
    fresh = make_simulator("tabletop")
    for call in (lambda: fresh.instruction, lambda: fresh.step(STILL), fresh.success,
                 fresh.get_state):
        with pytest.raises(SimulatorError, match=r"call reset\(\) first"):
            call()


def test_observation_has_the_stated_shapes(world):
    observation = world.reset(None, 0)
    assert observation.stamp == 0.0
    assert list(observation.images) == ["primary", "wrist"]
    for image in observation.images.values():
        assert image.shape == (256, 256, 3) and image.dtype == np.uint8
        assert image.flags["C_CONTIGUOUS"]
    assert observation.proprio.shape == (8,)
    assert len(observation.joint_names) == 9
    assert observation.joint_positions.shape == observation.joint_velocities.shape == (9,)
    assert observation.ee_twist.shape == (6,)
    assert world.observe(render=False).images == {}


def test_stamps_count_control_periods_from_reset(world):
    for _ in range(2):
        assert world.reset(None, 0, render=False).stamp == 0.0
        for k in range(1, 4):
            world.step(STILL)
            assert world.observe(render=False).stamp == pytest.approx(k * 0.05, abs=1e-12)


def test_episode_starts_at_rest_with_open_fingers_and_the_tool_down(any_world):
    for seed in range(8):
        observation = any_world.reset(None, seed, render=False)
        assert np.abs(observation.ee_twist).max() < 1e-4
        # the elbow may still creep in the null space, towards its posture
        assert np.abs(observation.joint_velocities).max() < 0.03
        assert observation.proprio[6] > 0.039 and observation.proprio[7] < -0.039
        assert np.linalg.norm(observation.proprio[3:6] - [np.pi, 0, 0]) < 0.25
        assert 0.15 < observation.proprio[2] < 0.4
        assert not any_world.success()


def test_reset_does_ten_wait_steps_with_open_gripper_and_no_motion(world, monkeypatch):
    waited = world.reset(2, 7, render=False)
    monkeypatch.setattr(world_module, "WAIT_STEPS", 0)
    world.reset(2, 7, render=False)
    for _ in range(10):
        world.step(STILL)
    by_hand = world.observe(render=False)
    assert np.array_equal(waited.proprio, by_hand.proprio)
    assert np.array_equal(waited.joint_velocities, by_hand.joint_velocities)


def test_same_seed_is_the_same_episode_bit_for_bit_in_any_simulator(any_world):
    other = make_simulator(any_world.suite, render_size=64)
    try:
        other.reset(None, 11, render=False)  # another past
        other.step(action(x=1.0, gripper=1.0))
        rng = np.random.default_rng(0)
        actions = rng.uniform(-1, 1, (6, 7))
        assert same(any_world.reset(None, 5), other.reset(None, 5))
        for each in actions:
            any_world.step(each)
            other.step(each)
            assert same(any_world.observe(), other.observe())
        assert not np.array_equal(any_world.reset(None, 6, render=False).proprio,
                                  any_world.reset(None, 5, render=False).proprio)
    finally:
        other.close()


@pytest.mark.parametrize("axis", range(6))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_unit_action_moves_as_osc_pose_would(world, axis, sign):
    """Against the law of robosuite's controller: x'' = 150 (goal - x) - 2 sqrt(150) x'."""
    # goal = current + delta at each control period, simulated for one unit of one axis
    scale = 0.05 if axis < 3 else 0.5
    x = v = 0.0
    for _ in range(4):
        goal = x + scale
        for _ in range(500):
            v += (150 * (goal - x) - 2 * np.sqrt(150) * v) * 1e-4
            x += v * 1e-4
    start = world.reset(None, 1, render=False)
    command = STILL.copy()
    command[axis] = sign
    for _ in range(4):
        world.step(command)
    end = world.observe(render=False)
    moved = sign * (end.proprio - start.proprio)[axis] if axis < 3 else None
    speed = sign * end.ee_twist[axis]
    if moved is not None:
        assert moved == pytest.approx(x, rel=0.06)
    assert speed == pytest.approx(v, rel=0.06)
    others = np.delete(end.ee_twist[:3], axis) if axis < 3 else end.ee_twist[:3]
    assert np.abs(others).max() < 0.15 * scale / 0.05 * 0.26


def test_actions_are_clipped(world):
    ends = []
    for factor in (1.0, 40.0):
        world.reset(None, 2, render=False)
        for _ in range(5):
            world.step(factor * np.array([1, -1, 1, 1, -1, 1, 1.0]))
        ends.append(world.observe(render=False))
    assert same(*ends)


def test_no_action_means_no_motion(world):
    start = world.reset(None, 4, render=False)
    for _ in range(20):
        world.step(STILL)
    end = world.observe(render=False)
    assert np.abs(end.proprio - start.proprio).max() < 1e-3
    assert np.abs(end.ee_twist).max() < 1e-3


def test_gripper_closes_opens_and_holds_at_zero(world):
    world.reset(None, 0, render=False)

    def fingers(command, steps=12):
        for _ in range(steps):
            world.step(action(gripper=command))
        return world.observe(render=False).proprio[6:]

    assert np.allclose(fingers(1.0), 0.0, atol=2e-3)
    assert np.allclose(fingers(0.0), 0.0, atol=2e-3)
    assert np.allclose(fingers(-1.0), [0.04, -0.04], atol=2e-3)
    assert np.allclose(fingers(0.0), [0.04, -0.04], atol=2e-3)


@pytest.mark.parametrize("bad", [
    np.zeros(6), np.zeros((1, 7)), np.full(7, np.nan), np.array([0, 0, 0, 0, 0, 0, np.inf]),
])
def test_bad_actions_are_refused_and_change_nothing(world, bad):
    before = world.reset(None, 0, render=False)
    with pytest.raises(ActionError, match="7 finite numbers"):
        world.step(bad)
    assert same(before, world.observe(render=False))


def test_wild_actions_stay_within_limits(world):
    from specprune_ros.sim.tabletop.panda import LINKS

    limits = {link.joint.name: link.joint for link in LINKS if link.joint}
    rng = np.random.default_rng(3)
    for seed in range(4):
        world.reset(None, seed, render=False)
        for _ in range(25):
            held = rng.choice([-1.0, 0.0, 1.0], 7)
            for _ in range(6):
                world.step(held)
            observation = world.observe(render=False)
            assert np.isfinite(observation.proprio).all()
            for name, position in zip(observation.joint_names, observation.joint_positions):
                # soft limits of MuJoCo: a few hundredths of a radian beyond under full force
                slack = 0.06 if limits[name].kind == "revolute" else 0.003
                assert limits[name].lower - slack < position < limits[name].upper + slack


@pytest.mark.parametrize("seed", [0, 1])
def test_success_is_about_the_right_cube_the_right_place_and_letting_go(world, seed):
    world.reset(None, seed, render=False)
    assert solve(world, until="release") is not None
    assert not world.success()  # at its place, but still held
    assert solve(world) is not None
    task = world.spec.tasks.index(world.task)
    for other in world.possible_tasks():
        world.set_task(other)
        assert world.success() == (other == task)
    world.set_task(task)
    for _ in range(6):
        world.step(action(gripper=1.0))
    assert not world.success()  # not latched: a closed gripper has not let go


def test_set_task_needs_the_cube_on_the_table(world):
    world.reset(None, 0, render=False)
    missing = set(range(len(world.tasks))) - set(world.possible_tasks())
    assert len(missing) == 2  # one colour of four, two destinations
    with pytest.raises(ConfigurationError, match="the table shows"):
        world.set_task(missing.pop())


def test_state_restores_the_future_bit_for_bit(any_world):
    rng = np.random.default_rng(1)
    any_world.reset(None, 9, render=False)
    for steps in (0, 7, 30):
        for _ in range(steps):
            any_world.step(rng.uniform(-1, 1, 7))
        state, before = any_world.get_state(), any_world.observe()
        future = rng.uniform(-1, 1, (8, 7))
        runs = []
        for detour in (False, True):
            if detour:  # another episode in between, with other colours and another task
                any_world.reset(None, 77, render=False)
                any_world.step(future[0])
                any_world.set_state(state)
                assert same(before, any_world.observe())
            instruction = any_world.instruction
            for each in future:
                any_world.step(each)
            runs.append((any_world.observe(), instruction, any_world.get_state()))
        assert same(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
        assert np.array_equal(runs[0][2].physics, runs[1][2].physics)


def test_state_holds_the_orientation_goal_that_is_still_pursued(world):
    world.reset(None, 9, render=False)
    world.step(action(rz=1.0))
    state = world.get_state()
    ends = []
    for detour in (False, True):
        if detour:
            world.reset(None, 10, render=False)
            world.set_state(state)
        for _ in range(5):
            world.step(STILL)  # no new rotation: the last goal stays
        ends.append(world.observe(render=False))
    assert same(*ends)
    assert abs(ends[0].proprio[5]) + abs(ends[0].proprio[4]) > 0.1  # it did turn on


def test_relabelling_does_not_disturb_the_episode(world):
    world.reset(None, 3, render=False)
    solve(world, until="grasp")
    state, before = world.get_state(), world.observe(render=False)
    for task in world.possible_tasks():
        world.set_task(task)
        solve(world, until="lift")
        world.set_state(state)
    assert same(before, world.observe(render=False))
    assert solve(world) is not None


def test_two_simulators_render_in_turn(world):
    other = make_simulator("tabletop_shift", render_size=128)
    try:
        first, second = world.reset(None, 0), other.reset(None, 0)
        for _ in range(2):
            assert same(first, world.observe()) and same(second, other.observe())
    finally:
        other.close()
        other.close()  # twice is fine
    assert same(first, world.observe())


def test_diverged_physics_is_an_error_and_the_next_reset_works(world, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file where it runs
    good = world.reset(None, 0, render=False)
    state = world.get_state()
    for recover in (lambda: world.reset(None, 0, render=False), lambda: world.set_state(state)):
        world._data.qvel[0] = 1e15
        with pytest.raises(SimulatorError, match="physics diverged"):
            world.step(STILL)
        recover()
        assert same(good, world.observe(render=False))
        world.step(STILL)
