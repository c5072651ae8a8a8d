"""The whole loop in lockstep: what comes out does not depend on the speed of the machine."""
import subprocess
import sys

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from specprune_ros.msg import ActionChunk, PruneStats, SimStatus  # noqa: E402

from specprune_ros.bringup import find_params_file, launch_nodes, node_command  # noqa: E402
from specprune_ros.ros.conversions import stamp_to_ns  # noqa: E402

SPIN = [sys.executable, "-c", "while True: pass"]


def run(ros, processes):
    """{stamp: (actions, what was kept)} of one episode of the real nodes."""
    chunks, stats, statuses = {}, {}, []
    node = ros.node("listener")
    node.create_subscription(
        ActionChunk, "action_chunk",
        lambda m: chunks.update({stamp_to_ns(m.header.stamp): m.data.tolist()}), 100)
    node.create_subscription(
        PruneStats, "prune_stats", lambda m: stats.update({stamp_to_ns(m.header.stamp): (
            m.query_number, m.mode, m.kept_after_dynamic.tolist(), m.translational_speed)}), 100)
    node.create_subscription(SimStatus, "sim_status", statuses.append, 100)
    world = {"episodes": 1, "seed": 4}
    started = {}
    for spec, parameters in launch_nodes({}):  # an untrained policy is latched after a while
        command = node_command(spec, find_params_file(None),
                               {**parameters, **(world if spec.simulation else {})})
        started[spec.name] = processes.start(*command[1:])
    bridge = started["sim_bridge_node"]
    assert ros.spin_until(lambda: bridge.poll() is not None, 200), bridge.log.read_text()
    assert bridge.returncode == 0, bridge.log.read_text()
    assert ros.spin_until(lambda: statuses and statuses[-1].done)
    processes.stop()
    assert started["vla_node"].returncode == 0, started["vla_node"].log.read_text()
    return {stamp: (chunks[stamp], stats[stamp]) for stamp in chunks if stamp in stats}


@pytest.mark.slow
def test_two_runs_give_the_same_chunks_on_an_idle_and_on_a_busy_machine(
        ros, processes):
    first = run(ros, processes)
    burners = [subprocess.Popen(SPIN) for _ in range(3)]
    try:
        second = run(ros, processes)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    common = first.keys() & second.keys()
    # A listener that is discovered late misses the first chunks.
    assert len(common) >= 5
    assert [stamp for stamp in sorted(common) if first[stamp] != second[stamp]] == []
    modes = {stats[1] for _, stats in (*first.values(), *second.values())}
    assert modes == {ActionChunk.COARSE, ActionChunk.FINE}  # a moving arm changes the mode
