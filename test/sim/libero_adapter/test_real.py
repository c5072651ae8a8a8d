"""LIBERO itself against the adapter: ``pytest -m libero`` where it is installed (docs/libero.md).

Tests with an environment need the assets; any that load will do, as both sides show the same.
"""
from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
from published import play

from specprune_ros.errors import SimulatorError
from specprune_ros.sim import make_simulator
from specprune_ros.sim.libero.init_states import read_init_states
from specprune_ros.sim.libero.package import find_assets, find_package
from specprune_ros.sim.libero.suites import ASSETS_VARIABLE, PYTHON_VARIABLE, SUITES

pytestmark = [pytest.mark.libero, pytest.mark.timeout(1800)]
here = pytest.mark.skipif(
    importlib.util.find_spec("libero") is None, reason="LIBERO is not installed in this environment"
)
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (9, 7))


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)


@here
def test_suites_and_initial_states(in_this_process):
    import torch

    package = find_package()
    for suite in SUITES:
        tasks = package.tasks(suite)
        assert len(tasks) == (90 if suite == "libero_90" else 10)
        for task in tasks:
            assert task.instruction == task.instruction.lower() and task.instruction
            states = read_init_states(task.init_file)
            assert len(states) == 50
            assert np.array_equal(states, torch.load(task.init_file, weights_only=False))
    scenes = [task.scene for task in package.tasks("libero_goal")]
    assert len(set(scenes)) == 1
    assert len({task.scene for task in package.tasks("libero_spatial")}) == 10


@here
def test_missing_assets_are_named(in_this_process, monkeypatch, tmp_path):
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    with pytest.raises(SimulatorError, match="hf download lerobot/libero-assets"):
        make_simulator("libero_spatial").reset(0, 0)


@here
@pytest.mark.parametrize("suite, task", [
    ("libero_spatial", 0),
    ("libero_object", 4),  # on the floor
    ("libero_goal", 0),
    ("libero_10", 0),  # a low table
    ("libero_10", 3),  # drawers that are open at the start
    ("libero_90", 80),  # a desk
])
def test_every_trial_is_that_of_the_published_loop(in_this_process, suite, task):
    package = find_package()
    try:
        package.use_assets()
    except SimulatorError as error:
        pytest.skip(str(error))
    expected = play(suite, task, 3, ACTIONS, 64)
    simulator = make_simulator(suite, render_size=64)
    for trial in (2, 0):
        seen = simulator.reset(task, trial)
        for number, after in enumerate(expected[trial]):
            if number:
                assert simulator.step(ACTIONS[number - 1]) is after[2]
                seen = simulator.observe(render=number % 4 == 0)
            assert np.array_equal(seen.proprio[:3], after[0][:3])
            assert seen.proprio == pytest.approx(after[0], abs=1e-6)  # acos of the original
            for name, image in seen.images.items():
                assert np.array_equal(image, after[1][name])
    simulator.close()


@pytest.mark.parametrize("suite", ["libero_spatial", "libero_object", "libero_10"])
def test_joint_states_tell_the_pose(suite):
    """In this environment, or in the one that SPECPRUNE_LIBERO_PYTHON names."""
    pytest.importorskip("pinocchio")
    from specprune_ros.robot.kinematics import ArmKinematics
    from specprune_ros.robot.proprio import ProprioSpec, proprio_vector

    try:
        simulator = make_simulator(suite, render_size=32)
        seen = simulator.reset(0, 1)
    except SimulatorError as error:
        pytest.skip(str(error))
    kinematics = ArmKinematics.from_urdf(
        simulator.robot_description(), simulator.base_frame, simulator.tool_frame)
    for action in ACTIONS:
        positions = dict(zip(seen.joint_names, seen.joint_positions))
        velocities = dict(zip(seen.joint_names, seen.joint_velocities))
        ours = proprio_vector(kinematics.pose(positions), positions, ProprioSpec())
        assert ours == pytest.approx(seen.proprio, abs=1e-9)
        assert kinematics.twist(positions, velocities) == pytest.approx(seen.ee_twist, abs=1e-9)
        simulator.step(action)
        seen = simulator.observe(render=False)
    simulator.close()


@here
def test_nothing_was_downloaded():
    """After the tests above, in the order of the file."""
    cache = os.path.expanduser("~/.cache/libero/assets")
    named = os.environ.get(ASSETS_VARIABLE)
    assert named is None or str(find_assets(find_package().folder)) == os.path.abspath(named)
    assert named is None or not os.path.exists(cache)
