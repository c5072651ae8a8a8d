"""specprune record: what runs on the topics lies in the bag, and what does not is told."""
from __future__ import annotations

import itertools
import json
import resource
import signal
import subprocess
import sys
import time

import pytest
import yaml
from bags import NANO
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from specprune_ros.msg import ActionChunk, PruneStats, SimStatus, VlaStatus
from std_msgs.msg import String

from specprune_ros import cli
from specprune_ros.errors import ConfigurationError, RecordingError
from specprune_ros.replay.bag_writer import BagWriter
from specprune_ros.replay.plan import make_plan
from specprune_ros.replay.recorded import NOTE, note_of, open_bag
from specprune_ros.ros import qos
from specprune_ros.ros.bag_recorder import _DEPTH, BagRecorder, TopicFacts
from specprune_ros.ros.conversions import ns_to_stamp

PRIMARY = "/front/image"  # as a remapped vla_node would read it
JOINTS = TopicFacts("/joint_states", "sensor_msgs/msg/JointState", True, False)


class FakeVlaNode(Node):
    """Has the topics of a vla_node, and publishes what a test tells it to."""

    def __init__(self, context, namespace=""):
        super().__init__("vla_node", context=context, namespace=namespace,
                         parameter_overrides=[Parameter("checkpoint", value="specprune-tiny")],
                         automatically_declare_parameters_from_overrides=True)
        for kind, topic, profile in ((Image, PRIMARY, qos.sensor_data()),
                                     (JointState, "joint_states", qos.sensor_data()),
                                     (String, "instruction", qos.latched())):
            self.create_subscription(kind, topic, lambda _message: None, profile)
        self.chunks = self.create_publisher(ActionChunk, "action_chunk", qos.results())
        self.create_publisher(PruneStats, "prune_stats", qos.results())
        for camera in ("primary", "wrist"):
            self.create_publisher(Image, f"camera/{camera}/kept_patches", qos.results())
        self.create_publisher(VlaStatus, "vla_status", qos.latched())


class Robot(Node):
    """Publishes the inputs. The instruction was published before anyone recorded."""

    def __init__(self, context, namespace=""):
        super().__init__("robot", context=context, namespace=namespace)
        self.images = self.create_publisher(Image, PRIMARY, qos.sensor_data())
        self.joints = self.create_publisher(JointState, "joint_states", 600)
        self.sim = self.create_publisher(SimStatus, "sim_status", 10)
        self.create_publisher(String, "instruction", qos.latched()).publish(String(data="lift"))
        self.create_publisher(String, "unrelated", 10)


@pytest.fixture
def world(spun):
    """(vla_node, robot), spinning."""
    return spun(FakeVlaNode), spun(Robot)


def spin(recorder, condition, timeout=60.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, (recorder.counts, recorder.refused, recorder.lost)
        recorder.spin(0.05)


def until(recorder, publisher, message):
    """Publish until the recorder has heard it: discovery takes its time."""
    before = recorder.counts.get(publisher.topic_name, 0)

    def again():
        publisher.publish(message)
        return recorder.counts.get(publisher.topic_name, 0) > before

    spin(recorder, again)


def test_topics_of_the_node_are_recorded_whatever_their_names(world, tmp_path):
    vla, robot = world
    picture = Image(height=1, width=1, encoding="rgb8", step=3, data=b"\1\2\3")
    writer = BagWriter(tmp_path / "bag")
    with BagRecorder(writer, "vla_node", "") as recorder:
        spin(recorder, lambda: recorder.counts.get("/instruction") and recorder.parameters)
        assert recorder.age is None  # latched messages and parameters alone are no recording
        until(recorder, robot.images, picture)
        until(recorder, vla.chunks, ActionChunk(horizon=2, dof=1, data=[0.5, 0.25]))
        assert recorder.age > 0 and recorder.parameters["checkpoint"] == "specprune-tiny"
        recorder.drain()
        assert recorder.lost == {} and "/unrelated" not in recorder.counts
    writer.close({"lost": {}})
    with open_bag(tmp_path / "bag") as bag:
        assert bag.kinds[PRIMARY] == "sensor_msgs/msg/Image"
        assert note_of(bag) == {"lost": {}}
        raw = [data for _, _, data in bag.raw({PRIMARY})]
        assert raw and set(raw) == {serialize_message(picture)}
        chunk = next(bag.messages({"/action_chunk"}))[2]
        assert (chunk.horizon, list(chunk.data)) == (2, [0.5, 0.25])
        assert [m.data for _, _, m in bag.messages({"/instruction"})] == ["lift"]
        times = [time for _, time, _ in bag.raw(bag.kinds)]
        assert times == sorted(times) and abs(times[-1] / NANO - time.time()) < 600
    topics = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())[
        "rosbag2_bagfile_information"]["topics_with_message_count"]
    offered = {topic["topic_metadata"]["name"]: yaml.safe_load(
        topic["topic_metadata"]["offered_qos_profiles"])[0] for topic in topics}
    # As rosbag2 codes them: durability 1 is transient local, reliability 2 best effort.
    assert (offered["/instruction"]["durability"], offered["/instruction"]["reliability"]) == (1, 1)
    assert (offered[PRIMARY]["durability"], offered[PRIMARY]["reliability"]) == (2, 2)


def test_more_topics_and_fewer(world, tmp_path):
    vla, robot = world
    drawn = "/camera/{}/kept_patches"  # by the node, where somebody subscribes
    with BagRecorder(BagWriter(tmp_path / "bag"), "vla_node", "",
                     ["/unrelated", drawn.format("wrist")], ["/joint_states"]) as recorder:
        spin(recorder, lambda: {"/unrelated", PRIMARY, "/sim_status", drawn.format("wrist"),
                                "/prune_stats"} <= set(recorder.counts))
        assert not {"/joint_states", "/rosout", drawn.format("primary")} & set(recorder.counts)


def test_another_namespace(spun, tmp_path):
    spun(lambda context: FakeVlaNode(context, "left"))
    robot = spun(lambda context: Robot(context, "left"))
    with BagRecorder(BagWriter(tmp_path / "bag"), "vla_node", "/left/") as recorder:
        spin(recorder, lambda: recorder.parameters and "/left/instruction" in recorder.counts)
        until(recorder, robot.joints, JointState())
        assert "/left/sim_status" in recorder.counts


def test_without_a_node_topics_are_found_by_their_names(spun, tmp_path):
    robot = spun(Robot)
    with BagRecorder(BagWriter(tmp_path / "bag"), "vla_node", "") as recorder:
        until(recorder, robot.joints, JointState())
        assert not recorder.node_seen and recorder.parameters == {}
        assert PRIMARY not in recorder.counts and "/unrelated" not in recorder.counts


def test_messages_that_were_lost_are_counted(world):
    class Sink:
        numbers = []

        def write(self, topic, _time, raw):
            if topic.name == "/joint_states":
                self.numbers.append(int(deserialize_message(raw, JointState).name[0]))
            return True

    def publish(numbers):
        for number in numbers:
            robot.joints.publish(JointState(name=[str(number)]))

    _, robot = world
    count = itertools.count()
    with BagRecorder(Sink(), "vla_node", "") as recorder:
        spin(recorder, lambda: publish([next(count)]) or Sink.numbers)
        publish(range(next(count), last := next(count) + _DEPTH + 100))  # more than can wait
        spin(recorder, lambda: Sink.numbers[-1] == last - 1)
    missing = last - Sink.numbers[0] - len(Sink.numbers)
    assert recorder.lost == {"/joint_states": missing} and missing >= 100


class Ignore:
    def write(self, *_message):
        return True


def given(recorder, kind, topic="/t", package="specprune_ros", **fields):
    """Have the recorder take a message."""
    recorder.counts.setdefault(topic, 0)
    recorder._callback(TopicFacts(topic, f"{package}/msg/{kind.__name__}", True, False))(
        serialize_message(kind(**fields)), {"received_timestamp": 1})


def test_seconds_are_those_of_the_simulated_clock(ros_process):
    with BagRecorder(Ignore(), "vla_node", "") as recorder:
        def tick(seconds):
            given(recorder, Clock, "/clock", "rosgraph_msgs", clock=Time(sec=seconds))

        tick(5)
        assert recorder.age is None
        given(recorder, JointState, "/joint_states", "sensor_msgs")
        assert recorder.age == 0.0
        tick(8)
        assert recorder.age == 3.0
    with BagRecorder(Ignore(), "vla_node", "") as recorder:
        given(recorder, JointState, "/joint_states", "sensor_msgs")
        assert 0.0 <= recorder.age < 3600.0  # no clock: wall seconds
        given(recorder, Clock, "/clock", "rosgraph_msgs", clock=Time(sec=9))
        assert recorder.age == 0.0


def test_episodes_are_the_simulators_or_those_of_the_node_with_a_query(ros_process):
    with BagRecorder(Ignore(), "vla_node", "") as recorder:
        for episode, queries in ((0, 0), (1, 0), (1, 2), (2, 2), (2, 3), (4, 3)):
            given(recorder, VlaStatus, episode=episode, queries=queries)
        assert recorder.episodes == 2  # the first had no query
        given(recorder, SimStatus, done=False)
        assert recorder.episodes == 0  # a simulator knows better
        given(recorder, SimStatus, done=True)
        assert recorder.episodes == 1


# --- the bag -----------------------------------------------------------------------------------

def test_a_type_that_nobody_knows_is_refused_and_told(tmp_path):
    writer = BagWriter(tmp_path / "bag")
    strange = TopicFacts("/strange", "nowhere_msgs/msg/Thing", True, False)
    for _ in range(2):
        assert not writer.write(strange, 1, b"\0\1\0\0")
        assert writer.write(JOINTS, 2, serialize_message(JointState()))
    writer.close({"odd": b"no JSON"})
    assert "source the workspace" in writer.refused["/strange"]
    with open_bag(tmp_path / "bag") as bag:
        assert bag.counts == {"/joint_states": 2}


def test_a_writer_that_got_nothing_leaves_nothing(tmp_path):
    writer = BagWriter(tmp_path / "bag")
    writer.close({})
    assert writer.empty and not (tmp_path / "bag").exists()


def test_an_existing_folder_is_not_touched(tmp_path, capsys):
    (tmp_path / "bag").mkdir()
    with pytest.raises(ConfigurationError, match="exists already"):
        BagWriter(tmp_path / "bag")
    assert cli.main(["record", "--out", str(tmp_path / "bag")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert list((tmp_path / "bag").iterdir()) == []


def test_a_full_disk_is_named(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = BagWriter(tmp_path / "bag")
    picture = serialize_message(Image(data=bytes(600_000)))
    image = TopicFacts("/i", "sensor_msgs/msg/Image", True, False)
    writer.write(image, 1, picture)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(RecordingError, match="cannot be written: .*File too large"):
            for number in range(2, 9):
                writer.write(image, number, picture)
        with pytest.raises(RecordingError, match="mcap recover"):
            writer.close({})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# --- the command -------------------------------------------------------------------------------

@pytest.mark.parametrize("end", [
    signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_closes_the_bag(end, world, ros_environment, tmp_path):
    _, robot = world
    process = subprocess.Popen(
        [sys.executable, "-m", "specprune_ros.cli", "record", "--out", str(tmp_path / "bag")],
        env=ros_environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 90
        while robot.joints.get_subscription_count() < 2:  # vla_node's, and the recorder's
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        for _ in range(5):
            robot.joints.publish(JointState(name=["a"]))
            time.sleep(0.1)
        process.send_signal(end)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert f"wrote {tmp_path / 'bag'}" in output and " 0 lost" in output
    with open_bag(tmp_path / "bag") as bag:
        assert bag.counts["/joint_states"] >= 4
        note = json.loads(bag.notes[NOTE])
        assert note["parameters"]["checkpoint"] == "specprune-tiny"
        assert note["checkpoint"]["hash"].startswith("sha256:")
        assert note["versions"]["specprune_ros"]


def test_nothing_to_record_is_an_error(ros_environment, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "specprune_ros.cli", "record", "--out", str(tmp_path / "bag")],
        env=ros_environment, stderr=subprocess.PIPE, text=True)
    try:
        assert "no node vla_node so far" in process.stderr.readline()  # it records by now
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 1
    assert "nothing was recorded" in output and "ROS_DOMAIN_ID=" in output
    assert not (tmp_path / "bag").exists()


@pytest.mark.parametrize("words, message", [
    (["--seconds", "0"], "--seconds is 0.0; it must be > 0"),
    (["--episodes", "0"], "--episodes is 0; it must be >= 1"),
    (["--namespace", "a b"], "is not a ROS namespace"),
])
def test_wrong_options_are_named(words, message, tmp_path, capsys):
    assert cli.main(["record", "--out", str(tmp_path / "bag"), *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bag").exists()


def test_a_recording_of_seconds_can_be_planned_for_a_replay(world, specprune, tmp_path):
    _, robot = world
    clock = robot.create_publisher(Clock, "/clock", 100)
    heard = [(clock, 1), (robot.images, 2), (robot.joints, 2)]
    ticks = itertools.count()

    def tick():
        """A control period; time begins once the recorder (besides vla_node) hears everything."""
        if all(p.get_subscription_count() >= count for p, count in heard):
            clock.publish(Clock(clock=ns_to_stamp(next(ticks) * NANO // 20)))
            robot.joints.publish(JointState())
            robot.images.publish(Image())

    robot.create_timer(0.05, tick)
    result = specprune("record", "--out", tmp_path / "bag", "--seconds", "1")
    assert result.returncode == 0, result.stderr
    with open_bag(tmp_path / "bag") as bag:
        plan = make_plan(bag, {PRIMARY: "camera/primary/image_raw"})
        assert set(plan.inputs.values()) == {"camera/primary/image_raw", "joint_states",
                                             "instruction"}
        assert bag.counts[PRIMARY] > 3
