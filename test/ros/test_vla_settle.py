"""What a replay in lock-step relies on: ~/settle, and hashes of the kept sets."""
import hashlib
import json
import struct

import pytest
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger
from vla_bench import Bench

from specprune_ros.errors import InferenceError


@pytest.fixture
def bench(ros):
    return Bench(ros).up()


def settle(bench):
    """What ~/settle answers: whether the node has settled, and its counters."""
    answer = bench.rig.call(Trigger, "vla_node/settle", Trigger.Request())
    return answer.success, json.loads(answer.message)


def test_settle_tells_when_everything_that_came_has_been_dealt_with(bench):
    settled, before = settle(bench)
    assert settled and before["queries"] == 0
    bench.policy.gate.clear()
    stamp = bench.rig.observe()
    bench.rig.until(bench.policy.entered.is_set)
    settled, during = settle(bench)
    assert not settled and during["queries"] == 0
    assert during["images_received"] >= 2 and during["joint_states_received"] >= 1
    bench.policy.gate.set()
    bench.rig.until(lambda: settle(bench)[0])
    _, after = settle(bench)
    assert (after["queries"], after["chunks"], after["now"]) == (1, 1, stamp)
    bench.rig.reset()
    assert settle(bench)[1]["episode"] == after["episode"] + 1


def test_an_inactive_node_is_settled(bench):
    bench.node.trigger_deactivate()
    bench.rig.observe()
    bench.rig.until(lambda: settle(bench)[1]["images_received"] >= 2)
    assert settle(bench)[0]


def test_a_latched_node_is_settled_and_its_counters_say_what_was_held(bench):
    bench.node.set_parameters([Parameter("guard.latch_after", value=1)])
    bench.policy.fail(InferenceError("no actions today"))
    bench.rig.observe()
    bench.rig.until(lambda: bench.rig.status.latched)
    bench.rig.observe()
    bench.rig.until(lambda: settle(bench)[1]["images_received"] >= 4)
    settled, after = settle(bench)
    assert settled
    assert (after["queries"], after["chunks"], after["failures"], after["holds"]) == (1, 0, 1, 1)


def position_hash(positions):
    """As PruneStats.msg describes it."""
    coded = struct.pack(f"<{len(positions)}q", *positions)
    return int.from_bytes(hashlib.blake2b(coded, digest_size=8).digest(), "little")


def test_stats_hash_the_positions_that_enter_each_layer(bench):
    _, stats = bench.rig.query()  # fake_policy.py says which positions were kept
    assert list(stats.kept_hashes) == [position_hash(range(n)) for n in (20, 12, 9)]
