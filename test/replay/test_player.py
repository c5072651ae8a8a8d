"""Lock-step over DDS: a real vla_node whose policy has no network, played to from a bag."""
from __future__ import annotations

import threading
import time

import pytest
from bags import clock, image, joints, status, text, write
from fake_policy import FakePolicy
from rclpy.parameter import Parameter
from vla_rig import URDF

from specprune_ros.errors import InferenceError
from specprune_ros.replay.plan import make_plan
from specprune_ros.replay.recorded import open_bag
from specprune_ros.replay.run import digest, paired_records
from specprune_ros.replay.runner import _NO_LATCH
from specprune_ros.replay.timeline import Deliver, SetTime, choose_clock, timeline
from specprune_ros.ros.bag_player import BagPlayer, ReplayFailed
from specprune_ros.ros.vla_node import VlaNode

PRIMARY, WRIST = "/camera/primary/image_raw", "/camera/wrist/image_raw"
PERIOD = 0.05
MESSAGE_KINDS = {"joint_states": "sensor_msgs/msg/JointState",
                 "instruction": "std_msgs/msg/String", "robot_description": "std_msgs/msg/String",
                 "camera/primary/image_raw": "sensor_msgs/msg/Image",
                 "camera/wrist/image_raw": "sensor_msgs/msg/Image"}


class SlowPolicy(FakePolicy):
    """Takes its time over a query, so that what does not wait for it goes wrong."""

    def predict(self, observation, episode=None):
        time.sleep(0.03)
        return super().predict(observation, episode)


def observations(first, count, start=1.0):
    """Clock, joint states and pictures per control period; the pictures differ."""
    for number in range(first, first + count):
        at = start + number * PERIOD
        yield "/clock", at, clock(at)
        yield PRIMARY, at, image(at, number % 256)
        yield "/joint_states", at, joints(at)
        yield WRIST, at, image(at, number % 256)


def world(*messages):
    return [("/robot_description", 0.9, text(URDF)), ("/instruction", 0.95, text("lift")),
            *messages]


@pytest.fixture
def node(spun):
    """Starts a vla_node; returns the policies that it has loaded."""
    def start(policy=SlowPolicy, **parameters):
        policies = []

        def load(settings, warn):
            policies.append(policy(settings))
            return policies[-1]

        overrides = [Parameter(name, value=value)
                     for name, value in {"use_sim_time": True, **parameters}.items()]
        spun(lambda context: VlaNode(load, context=context, parameter_overrides=overrides))
        return policies

    return start


def play(path, domain, inputs=None, patience=30.0, instruction=None):
    """Play a bag to the node of this domain; returns the player."""
    with open_bag(path) as bag:
        plan = make_plan(bag, {})
        names = inputs or {name: plan.kinds[topic] for topic, name in plan.inputs.items()}
        with BagPlayer(names, domain, lambda: None, patience) as player:
            player.wait_until_active(30.0)
            for event in timeline(bag, plan, choose_clock(bag, plan), instruction):
                if isinstance(event, SetTime):
                    player.set_time(event.ns)
                elif isinstance(event, Deliver):
                    player.deliver(event.topic, event.raw)
                else:
                    player.reset_episode()
            return player


def test_every_picture_arrives_and_every_due_query_is_answered(node, ros_process, tmp_path):
    policies = node()
    path = write(tmp_path / "bag", world(*observations(0, 20)))
    player = play(path, ros_process)
    records = paired_records(player.chunks, player.stats)
    assert [query["stamp"] / 1e9 for query in records] == pytest.approx([1.0, 1.4, 1.8])
    assert player.progress["images_received"] == 40
    assert player.progress["joint_states_received"] == 20
    # Every frame between two queries has reached the policy, in order, in seconds of the episode.
    frames = policies[0].episodes[0]["frames"]
    assert frames == pytest.approx([n * PERIOD for n in range(20) if n not in (0, 8, 16)])
    assert [query["observation_age_s"] for query in records] == [0.0] * 3


def test_two_replays_to_one_node_give_the_same(node, ros_process, tmp_path):
    """Time goes back in between: a new episode begins, and nothing of the old one is left."""
    path = write(tmp_path / "bag", world(*observations(0, 18)))
    node()
    found = []
    for _ in range(2):
        player = play(path, ros_process)
        found.append(paired_records(player.chunks, player.stats))
    assert len(found[0]) == 3
    assert found[1][0]["episode"] > found[0][0]["episode"]
    assert digest([{**query, "episode": 0} for query in found[0]]) == (
        digest([{**query, "episode": 0} for query in found[1]]))


def test_recorded_calls_of_reset_episode_are_made_again(node, ros_process, tmp_path):
    policies = node()
    path = write(tmp_path / "bag", world(
        ("/vla_status", 0.97, status(0.9, 0, "lift")),
        *observations(0, 3),
        ("/vla_status", 1.13, status(1.1, 1, "lift", images=6, chunks=1)),
        *observations(3, 3),
        ("/vla_status", 1.28, status(1.25, 2, "place", images=12, chunks=2)),
        ("/instruction", 1.28, text("place")),
        *observations(6, 3)))
    player = play(path, ros_process)
    assert [(c.episode, c.instruction) for c in player.chunks] == [
        (0, "lift"), (1, "lift"), (2, "place")]
    assert len(policies[0].episodes) == 3
    assert player.progress["holds"] == 1  # at the call, when the first chunk was in play


def test_a_query_that_fails_is_a_fault_of_the_run_not_its_end(node, ros_process, tmp_path):
    class Failing(SlowPolicy):
        def predict(self, observation, episode=None):
            self.fail(InferenceError("no actions today") if observation.stamp < 0.075 else None)
            return super().predict(observation, episode)

    node(Failing)
    player = play(write(tmp_path / "bag", world(*observations(0, 5))), ros_process)
    assert [c.header.stamp.nanosec for c in player.chunks] == [100_000_000]
    assert any("no actions today" in text for _, text in player.faults)
    assert player.progress["queries"] == 3  # two failed, pruned and dense
    assert player.progress["failures"] == player.progress["holds"] == 2


def test_a_query_that_was_answered_dense_is_told_in_its_record(node, ros_process, tmp_path):
    class Failing(SlowPolicy):
        def predict(self, observation, episode=None):
            self.fault = InferenceError("not pruned") if observation.stamp < 0.3 else None
            return super().predict(observation, episode)

    node(Failing)
    player = play(write(tmp_path / "bag", world(*observations(0, 10))), ros_process)
    records = paired_records(player.chunks, player.stats)
    assert [(query["source"], query["method"]) for query in records] == [(1, "off"),
                                                                         (0, "specprune")]
    assert player.progress["dense_fallbacks"] == 1


def test_with_dry_run_chunks_come_as_well(node, ros_process, tmp_path):
    node(dry_run=True)
    player = play(write(tmp_path / "bag", world(*observations(0, 10))), ros_process)
    assert len(paired_records(player.chunks, player.stats)) == 2


@pytest.mark.parametrize("latches", [True, False])
def test_a_gap_in_the_inputs_ends_nothing_where_nothing_latches(latches, node, ros_process,
                                                                tmp_path):
    """Time goes on without pictures. Watchdogs look at the clock whenever the node settles, so what
    they do is the same in every replay; a latched node is settled."""
    node(**({} if latches else _NO_LATCH))
    path = write(tmp_path / "bag", world(
        *observations(0, 4), *(("/clock", at / 2, clock(at / 2)) for at in range(3, 27)),
        *observations(0, 4, start=13.5)))
    player = play(path, ros_process)
    stamps = [c.header.stamp.sec + c.header.stamp.nanosec / 1e9 for c in player.chunks]
    assert stamps == pytest.approx([1.0] if latches else [1.0, 13.5])
    assert player.progress["holds"] == (2 if latches else 1)  # at the gap, and when it latches
    assert any("latch" in text or "clear_fault" in text for _, text in player.faults) == latches


def test_a_node_that_reports_a_fault_ends_the_replay(node, ros_process, tmp_path):
    node(cameras=["primary", "front"])
    with pytest.raises(ReplayFailed, match="reports a fault.*front"):
        play(write(tmp_path / "bag", world(*observations(0, 2))), ros_process)


def test_a_node_that_does_not_answer_in_time_is_named(node, ros_process, tmp_path):
    class Stuck(FakePolicy):
        def predict(self, observation, episode=None):
            raise InferenceError("freed") if over.wait(60.0) else TimeoutError

    over = threading.Event()
    node(Stuck)
    try:
        with pytest.raises(ReplayFailed, match="vla_node: it did not .* within 4 s"):
            play(write(tmp_path / "bag", world(*observations(0, 2))), ros_process, patience=4.0)
    finally:
        over.set()


def test_an_input_that_the_node_does_not_have_is_named(node, ros_process, tmp_path):
    node(cameras=["primary"])
    with BagPlayer(MESSAGE_KINDS, ros_process, lambda: None, 1.0) as player, pytest.raises(
            ReplayFailed, match="does not subscribe to camera/wrist/image_raw"):
        player.wait_until_active(5.0)


def test_no_node_at_all(ros_process):
    with BagPlayer(MESSAGE_KINDS, ros_process, lambda: None, 1.0) as player, pytest.raises(
            ReplayFailed, match="it is not active within 1 s"):
        player.wait_until_active(1.0)
