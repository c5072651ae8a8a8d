"""The client of ``specprune eval --through-ros``: what it makes of good nodes and of bad ones."""
import threading

import numpy as np
import pytest
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from specprune_ros.msg import ActionChunk, PruneStats, SimStatus, VlaStatus
from std_srvs.srv import Trigger

from specprune_ros.errors import SpecpruneError
from specprune_ros.ros import episode_client, qos
from specprune_ros.ros.conversions import ns_to_stamp
from specprune_ros.ros.episode_client import EpisodeClient, NodesError

PERIOD = 50_000_000  # ns
KEPT = [[4, 4], [2, 3]]  # [layer][camera]


class Script:
    """Both nodes, spun by a thread. ``steps``: of each episode; ``play``: publishes one.

    leave_out: kinds of messages that are not published at the second query. answer: of the service.
    source: of the chunk of the second query.
    """

    def __init__(self, domain):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.steps, self.answer, self.leave_out, self.episode = 9, True, (), 0
        self.source = ActionChunk.POLICY
        self.now = 3 * PERIOD
        self.vla = rclpy.create_node("vla_node", context=self.context)
        self.bridge = rclpy.create_node("sim_bridge_node", context=self.context)
        self.vla.declare_parameter("pruning", "off")
        self.vla.declare_parameter("pruning_seed", 0)
        self.bridge.declare_parameter("task", -1)
        self.bridge.declare_parameter("seed", 0)
        self._chunks = self.vla.create_publisher(ActionChunk, "action_chunk", 10)
        self._stats = self.vla.create_publisher(PruneStats, "prune_stats", 10)
        self.status = self.vla.create_publisher(VlaStatus, "vla_status", qos.latched())
        self._sim = self.bridge.create_publisher(SimStatus, "sim_status", 50)
        self.bridge.create_service(Trigger, "~/play_episode", self._on_play)
        self._executor = SingleThreadedExecutor(context=self.context)
        for node in (self.vla, self.bridge):
            self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _on_play(self, _request, response):
        response.success, response.message = self.answer, "not today"
        if self.answer:
            self.play()
        return response

    def play(self):
        start, seed = self.now, self.bridge.get_parameter("seed").value
        for step in range(self.steps + 1):
            stamp = ns_to_stamp(start + step * PERIOD)
            end = step == self.steps
            if step % 4 == 0 and not end:
                self._query(stamp, step, seed)
            status = SimStatus(episode=self.episode, step=step, init_state=seed, done=end,
                               success=end, instruction="push", observation_age=0.1 + step)
            status.header.stamp = stamp
            self._sim.publish(status)
        self.now = start + (self.steps + 1) * PERIOD
        self.episode += 1

    def _query(self, stamp, step, seed):
        chunk = ActionChunk(horizon=8, dof=7, data=[seed + step + 0.1] * 56, inference_time=0.05)
        stats = PruneStats(cameras=["primary", "wrist"], flops=40.0, dense_flops=100.0,
                           visual_tokens_per_layer=np.ravel(KEPT).tolist(), mode=PruneStats.FINE)
        chunk.header.stamp = stats.header.stamp = stamp
        late = step == 4
        if step == 0:  # the hold that ends the episode before has this stamp
            hold = ActionChunk(horizon=8, dof=7, data=[0.0] * 56, source=ActionChunk.HOLD)
            hold.header.stamp = stamp
            self._chunks.publish(hold)
        if late:
            chunk.source = self.source
        if not (late and "chunk" in self.leave_out):
            self._chunks.publish(chunk)
        if not (late and "stats" in self.leave_out):
            self._stats.publish(stats)

    def close(self):
        self._executor.shutdown()
        self._thread.join(10)
        for node in (self.vla, self.bridge):
            node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def script(ros_environment):
    script = Script(int(ros_environment["ROS_DOMAIN_ID"]))
    yield script
    script.close()


def make_client(ros_environment, check=lambda: None, patience=20.0):
    return EpisodeClient(int(ros_environment["ROS_DOMAIN_ID"]), 0.05, 4, check, patience)


@pytest.fixture
def client(ros_environment, script):
    client = make_client(ros_environment)
    yield client
    client.close()


def test_an_episode_is_what_the_nodes_published(client, script):
    client.use_method("specprune", 7)
    assert script.vla.get_parameter("pruning").value == "specprune"
    assert script.vla.get_parameter("pruning_seed").value == 7
    for init_state in (40, 41):
        played = client.play(2, init_state)
        assert script.bridge.get_parameter("task").value == 2
        assert (played.instruction, played.success, played.steps) == ("push", True, 9)
        assert played.cameras == ("primary", "wrist") and played.wall_s > 0
        assert [query.at for query in played.queries] == [0, 4, 8]
        for query in played.queries:
            np.testing.assert_array_equal(
                query.actions, np.full((8, 7), init_state + query.at + 0.1))
            assert query.kept == ((4, 4), (2, 3))
            assert (query.flops, query.dense_flops, query.fine) == (40.0, 100.0, True)
            assert query.inference_s == 0.05 and not query.fallback
            assert query.age_s == 0.1 + query.at + 1  # of the first row that was played


def test_a_query_at_the_very_end_is_none(client, script):
    script.steps = 8
    assert [query.at for query in client.play(0, 1).queries] == [0, 4]


@pytest.mark.parametrize("kind", ["chunk", "stats"])
def test_lost_messages_are_counted(client, script, kind, monkeypatch):
    monkeypatch.setattr(episode_client, "_LATE_S", 0.3)
    script.leave_out = (kind,)
    with pytest.raises(NodesError, match="lost: of the 3 queries.*(2 chunks|2 statistics)"):
        client.play(0, 1)


def test_a_dense_chunk_in_the_place_of_the_methods_is_told(client, script):
    script.source = ActionChunk.DENSE
    assert [query.fallback for query in client.play(0, 1).queries] == [False, True, False]


def test_an_observation_without_an_answer_is_no_episode(client, script, monkeypatch):
    monkeypatch.setattr(episode_client, "_LATE_S", 0.3)
    script.source, script.leave_out = ActionChunk.HOLD, ("stats",)
    script.status.publish(VlaStatus(last_rejection="x of row 3 is 7"))
    with pytest.raises(NodesError, match="no answer to the observation after 4 control periods and "
                                         "held the arm still.*x of row 3 is 7"):
        client.play(0, 1)


def test_a_bridge_that_refuses_says_why(client, script):
    script.answer = False
    with pytest.raises(NodesError, match="sim_bridge_node refuses to play: not today"):
        client.play(0, 1)


def test_a_fault_ends_the_waiting(client, script):
    script.play = lambda: script.status.publish(
        VlaStatus(state=VlaStatus.FAULT, fault_text="policy: it is broken"))
    with pytest.raises(NodesError, match="vla_node reports a fault: policy: it is broken"):
        client.play(0, 1)


def test_a_chunk_that_never_comes_ends_the_waiting(ros_environment, script):
    script.play = lambda: script.status.publish(
        VlaStatus(state=VlaStatus.WAITING, fault_text="joint_states: nothing received yet"))
    client = make_client(ros_environment, patience=1.0)
    try:
        with pytest.raises(NodesError, match="no news for 1 s while waiting for the end of the "
                                             r"episode of 1; vla_node said \d s ago: joint_states"):
            client.play(0, 1)
    finally:
        client.close()


def test_nodes_that_are_not_there_are_not_waited_for_without_end(ros_environment):
    client = make_client(ros_environment, patience=0.5)
    try:
        with pytest.raises(NodesError, match="waiting for the service vla_node/set_parameters_ato"
                                             ".*vla_node has published no status"):
            client.use_method("off", 0)
    finally:
        client.close()


def test_a_process_that_is_gone_ends_the_waiting(ros_environment):
    def check():
        raise SpecpruneError("it is gone")

    client = make_client(ros_environment, check)
    try:
        with pytest.raises(SpecpruneError, match="it is gone"):
            client.use_method("off", 0)
    finally:
        client.close()
