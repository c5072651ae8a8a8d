"""The nodes on a LIBERO suite: the suite is an argument, everything else follows."""
import os
import sys

import pytest

pytest.importorskip("rclpy")

from specprune_ros.msg import ActionChunk, SimStatus  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from specprune_ros.bringup import find_params_file, launch_nodes, node_command  # noqa: E402
from specprune_ros.ros import qos  # noqa: E402
from specprune_ros.sim.libero.arm import arm_description  # noqa: E402
from specprune_ros.sim.libero.suites import PYTHON_VARIABLE  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True], ids=["in the node", "in a process"])
def test_a_suite_is_played_over_topics(ros, processes, libero_site, monkeypatch, tmp_path, apart):
    environment = processes._environment
    path = os.pathsep.join(filter(None, [str(libero_site), environment.get("PYTHONPATH")]))
    monkeypatch.setitem(environment, "PYTHONPATH", path)
    monkeypatch.setitem(environment, "HOME", str(tmp_path))
    monkeypatch.setitem(environment, PYTHON_VARIABLE, sys.executable if apart else "")
    chunks, statuses, descriptions = [], [], []
    node = ros.node("listener")
    node.create_subscription(ActionChunk, "action_chunk", chunks.append, 100)
    node.create_subscription(SimStatus, "sim_status", statuses.append, 100)
    node.create_subscription(String, "robot_description", descriptions.append, qos.latched())
    world = {"episodes": 2, "seed": 1}  # task 1 on a low table, then task 0 on a high one
    started = {}
    specs = launch_nodes({"suite": "libero_10", "checkpoint": "specprune-tiny"})
    for spec, parameters in sorted(specs, key=lambda pair: not pair[0].simulation):
        command = node_command(spec, find_params_file(None),
                               {**parameters, **(world if spec.simulation else {})})
        started[spec.name] = process = processes.start(*command[1:])
        if spec.simulation:  # which waits for the policy; a listener found late would miss it all
            assert ros.spin_until(lambda: descriptions), process.log.read_text()
    bridge = started["sim_bridge_node"]
    assert ros.spin_until(lambda: bridge.poll() is not None, 200), bridge.log.read_text()
    log = bridge.log.read_text()
    assert bridge.returncode == 0, log
    assert "2 episodes, " in log and " 0 rejected, " in log
    assert ros.spin_until(lambda: statuses and statuses[-1].done)
    assert {status.suite for status in statuses} == {"libero_10"}
    assert {(s.episode, s.init_state, s.instruction) for s in statuses} == {
        (0, 1, "put both in the basket"), (1, 2, "turn on the stove")}
    assert chunks and all(chunk.header.frame_id == "world" for chunk in chunks)
    assert descriptions[-1].data == arm_description()
