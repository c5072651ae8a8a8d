"""Fixtures of the replay tests. Real nodes over real DDS, as in test/ros."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from specprune_ros.bringup import prepare_environment

sys.path.append(str(Path(__file__).resolve().parents[1] / "ros"))  # fake_policy, vla_rig

try:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
except ImportError:  # without ROS the tests of the other folders still run
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def ros_environment(tmp_path_factory):
    """Environment of processes under test: a domain nobody else uses, logs in a scratch folder.

    Per module: rclpy never lets go of a lifecycle node, and others go on to see it.
    """
    environment = dict(os.environ)
    environment.pop("ROS_DOMAIN_ID", None)
    lock = prepare_environment(environment)
    environment["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_log"))
    environment["OMP_NUM_THREADS"] = "1"
    yield environment
    lock.close()


@pytest.fixture
def ros_process(ros_environment, monkeypatch):
    """The same environment for what runs in this process."""
    for name, value in ros_environment.items():
        monkeypatch.setenv(name, value)
    return int(ros_environment["ROS_DOMAIN_ID"])


@pytest.fixture
def specprune(ros_environment, tmp_path):
    """Runs ``specprune *words`` in a process; returns the CompletedProcess."""
    def run(*words, timeout=240):
        return subprocess.run(
            [sys.executable, "-m", "specprune_ros.cli", *map(str, words)], cwd=tmp_path,
            env=ros_environment, capture_output=True, text=True, timeout=timeout)

    return run


class SpunNode:
    """A node that spins in a thread of its own, in a context of its own."""

    def __init__(self, domain, make):
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = make(self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def close(self):
        self._stop.set()
        self._thread.join()
        if hasattr(self.node, "close"):
            self.node.close()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def spun(ros_process):
    """Starter of nodes that spin beside the test: spun(lambda context: Node(...))."""
    running = []

    def start(make):
        running.append(SpunNode(ros_process, make))
        return running[-1].node

    yield start
    for node in running:
        node.close()
