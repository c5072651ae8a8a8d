"""LIBERO in another process: the same numbers, and clear errors when that process cannot go on."""
from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import pytest

from specprune_ros.errors import ActionError, ConfigurationError, SimulatorError
from specprune_ros.sim import make_simulator
from specprune_ros.sim.libero import remote as remote_module
from specprune_ros.sim.libero.remote import RemoteLibero
from specprune_ros.sim.libero.simulator import LiberoSimulator
from specprune_ros.sim.libero.suites import PYTHON_VARIABLE

ACTIONS = np.random.default_rng(1).uniform(-1, 1, (5, 7))


@pytest.fixture
def process(libero_site, environment, monkeypatch):
    """``process(suite)``: a simulator in a process that has the double; this one does not."""
    monkeypatch.setenv("PYTHONPATH", str(libero_site))
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    made = []

    def start(suite="libero_goal"):
        made.append(make_simulator(suite, render_size=24))
        assert isinstance(made[-1], RemoteLibero)
        return made[-1]

    yield start
    for simulator in made:
        simulator.close()


def test_it_is_the_same_simulator(process, libero):
    there, here = process("libero_10"), LiberoSimulator("libero_10", 24)
    for name in ("suite", "control_period", "max_steps", "base_frame", "tool_frame", "tasks",
                 "trials", "versions"):
        assert getattr(there, name) == getattr(here, name), name
    assert there.robot_description() == here.robot_description()
    pairs = [(there.reset(None, 5), here.reset(None, 5))]
    assert there.instruction == here.instruction
    assert there.possible_tasks() == here.possible_tasks()
    for number, action in enumerate(ACTIONS):
        assert there.step(action) == here.step(action)
        render = number % 2 == 0
        pairs.append((there.observe(render=render), here.observe(render=render)))
    assert there.success() == here.success()
    here.close()
    for a, b in pairs:
        assert (a.stamp, a.joint_names, set(a.images)) == (b.stamp, b.joint_names, set(b.images))
        for name in ("proprio", "joint_positions", "joint_velocities", "ee_twist"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        for name in a.images:
            assert np.array_equal(a.images[name], b.images[name])
            assert a.images[name].flags.writeable


def test_errors_come_through_with_their_class(process):
    simulator = process()
    with pytest.raises(SimulatorError, match="call reset"):
        _ = simulator.instruction
    with pytest.raises(SimulatorError, match="call reset"):
        simulator.step(ACTIONS[0])
    with pytest.raises(ConfigurationError, match="100 episodes"):
        simulator.reset(None, 100)
    simulator.reset(0, 0)
    for wrong in (np.zeros(3), [np.nan] * 7, "up"):
        with pytest.raises(ActionError, match="7 finite numbers"):
            simulator.step(wrong)
    os.kill(simulator._process.pid, signal.SIGINT)  # as Ctrl-C does to all of a terminal
    simulator.step(np.zeros(7))  # and it goes on
    child = simulator._process
    simulator.close()
    simulator.close()
    assert child.returncode == 0


def test_what_libero_lacks_there_is_said_here(process, copied, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(copied.path))
    copied.distribution("mujoco", "4.0.0")
    with pytest.raises(SimulatorError, match="mujoco 4.0.0 is here"):
        process()


def test_a_process_that_died_is_named(process):
    simulator = process()
    os.kill(simulator._process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(SimulatorError, match=rf"process \({sys.executable}\) ended by signal"):
            simulator.observe()
    simulator.close()
    with pytest.raises(SimulatorError, match="closed"):
        simulator.observe()


def test_the_end_of_its_log_is_shown(process, copied, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(copied.path))
    envs = copied.package / "envs" / "__init__.py"
    envs.write_text(envs.read_text().replace(
        "    def reset(self):\n        self._load_model()",
        "    def reset(self):\n        print('GL is', 'gone', flush=True)\n        os._exit(7)"))
    simulator = process()
    with pytest.raises(SimulatorError, match="ended with status 7"):
        simulator.reset(0, 0)


def test_a_process_that_hangs_is_ended(process, copied, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(copied.path))
    envs = copied.package / "envs" / "__init__.py"
    envs.write_text(envs.read_text().replace(
        "    def reset(self):\n        self._load_model()",
        "    def reset(self):\n        import time\n        time.sleep(600)"))
    simulator = process()
    monkeypatch.setattr(remote_module, "_PATIENCE", 1.0)
    with pytest.raises(SimulatorError, match="gave no answer for 1 s and was ended"):
        simulator.reset(0, 0)
    with pytest.raises(SimulatorError, match="ended by signal 9"):
        simulator.reset(0, 0)


@pytest.mark.parametrize("python", ["/no/such/python", os.devnull, os.curdir])
def test_a_python_that_cannot_be_started_is_named(process, monkeypatch, python):
    monkeypatch.setenv(PYTHON_VARIABLE, python)
    with pytest.raises(ConfigurationError, match=rf"{PYTHON_VARIABLE} is '{python}'"):
        process()


def test_what_is_no_python_is_named(process, monkeypatch):
    monkeypatch.setenv(PYTHON_VARIABLE, "false")
    with pytest.raises(SimulatorError, match=r"process \(false\) ended with status 1"):
        process()


def test_a_process_does_not_outlive_the_one_that_started_it(process):
    simulator = process()
    child = simulator._process
    simulator._connection.close()  # as the kernel does for a process that was killed
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child.returncode == 0
    simulator._connection = None
