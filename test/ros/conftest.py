"""ROS fixtures: a domain for each test process, nodes in this process, child processes."""
import os
import signal
import subprocess
import sys
import time

import pytest

from specprune_ros.bringup import prepare_environment

try:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
except ImportError:  # without ROS the tests of the other folders still run
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def ros_environment(tmp_path_factory):
    """Environment of processes under test: a domain nobody else uses, logs in a scratch folder.

    It is a copy of this process's: the ROS wheels hand their library path on in it.
    """
    environment = dict(os.environ)
    environment.pop("ROS_DOMAIN_ID", None)
    lock = prepare_environment(environment)
    environment["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_log"))
    environment["OMP_NUM_THREADS"] = "1"
    yield environment
    lock.close()


class Ros:
    """A context with an executor for the nodes of a test."""

    def __init__(self, domain):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes = []

    def node(self, name, **options):
        """Create a node and spin it with the others."""
        return self.add(rclpy.create_node(name, context=self.context, **options))

    def add(self, node):
        self.executor.add_node(node)
        self._nodes.append(node)
        return node

    def spin_until(self, condition, timeout=120.0, again=None, period=1.0):
        """Spin until the condition holds, calling ``again`` from time to time; whether it did."""
        end = time.monotonic() + timeout
        due = time.monotonic() + period
        while not condition():
            now = time.monotonic()
            if now > end:
                return False
            if again is not None and now > due:
                again()
                due = now + period
            self.executor.spin_once(timeout_sec=0.05)
        return True

    def close(self):
        for node in self._nodes:
            if hasattr(node, "close"):
                node.close()
            self.executor.remove_node(node)
            node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def ros(ros_environment):
    """Nodes of one test, in this process."""
    ros = Ros(int(ros_environment["ROS_DOMAIN_ID"]))
    yield ros
    ros.close()


@pytest.fixture(scope="module")
def module_ros(ros_environment):
    """As ``ros``, shared by the tests of a module."""
    ros = Ros(int(ros_environment["ROS_DOMAIN_ID"]))
    yield ros
    ros.close()


class Processes:
    """Python processes of a test, with the logs they wrote."""

    def __init__(self, environment, folder):
        self._environment = environment
        self._folder = folder
        self._running = []

    def start(self, *arguments):
        """Start ``python *arguments``; returns the Popen, with the path of its log in ``log``."""
        path = self._folder / f"process{len(self._running)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=log,
                                       stderr=subprocess.STDOUT, env=self._environment)
        process.log = path
        self._running.append(process)
        return process

    def stop(self):
        """Interrupt what still runs; kill what does not end."""
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self._running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def processes(ros_environment, tmp_path):
    """Starter of child processes that end with the test."""
    processes = Processes(ros_environment, tmp_path)
    yield processes
    processes.stop()


@pytest.fixture(scope="module")
def module_processes(ros_environment, tmp_path_factory):
    """As ``processes``, for a module."""
    processes = Processes(ros_environment, tmp_path_factory.mktemp("processes"))
    yield processes
    processes.stop()
