"""Faults that vla_node must survive (docs/reliability.md), beside those of the other test files.

The rig checks every chunk and every stat that is published: finite, in range, not stale.
"""
import random
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from sim_bridge_harness import PROCESS as BRIDGE
from specprune_ros.msg import ActionChunk, VlaStatus
from std_msgs.msg import String
from vla_bench import Bench
from vla_rig import INSTRUCTION, PERIOD, URDF, Rig, assert_safe

from specprune_ros.ros import qos
from specprune_ros.ros.chunk_player_node import ChunkPlayerNode
from specprune_ros.ros.conversions import ns_to_stamp, stamp_to_ns
from specprune_ros.ros.engine import Engine
from specprune_ros.ros.vla_parameters import VLA_PARAMETERS

FAKE = Path(__file__).with_name("fake_vla_process.py")
FAST = ("-p", "use_sim_time:=true")


@pytest.fixture
def bench(ros):
    return Bench(ros).up()


# --- inputs --------------------------------------------------------------------------------------

def test_camera_at_2_hz_gives_a_chunk_per_picture(bench):
    stamps = [bench.rig.query(periods=10)[0].header.stamp for _ in range(5)]
    assert np.diff([stamp_to_ns(stamp) for stamp in stamps]).tolist() == [10 * PERIOD] * 4
    assert bench.rig.holds == [] and bench.rig.status.state == VlaStatus.RUNNING


def test_4k_pictures(bench):
    bench.rig.query()
    height, width = 2160, 3840
    row = np.arange(width * 3, dtype=np.uint32).astype(np.uint8).tobytes()
    big = {"height": height, "width": width, "step": 3 * width, "data": row * height}
    chunk, _ = bench.rig.query(images={"primary": big})
    assert bench.policy.observations[-1].images["primary"].shape == (height, width, 3)
    assert chunk.source == ActionChunk.POLICY


def test_joint_states_that_stop_give_a_hold_then_a_latch(ros):
    bench = Bench(ros, watchdog__latch_after=2.0).up()
    bench.rig.query()
    for _ in range(20):
        bench.rig.now += 4 * PERIOD
        old = bench.rig.joints()
        old.header.stamp = ns_to_stamp(0)
        bench.rig.observe(periods=0, joints=JointState())  # nothing in it, stamp 0
        ros.spin_until(lambda: False, timeout=0.1)
    bench.rig.until(lambda: bench.rig.status.latched)
    assert len(bench.rig.chunks) == 1 and bench.rig.holds
    bench.rig.clear_fault()
    bench.rig.query()


def test_joint_states_that_go_back_in_time(bench):
    bench.rig.query()
    bench.rig.now += 8 * PERIOD
    back = bench.rig.joints()
    back.header.stamp = ns_to_stamp(bench.rig.now - 4 * PERIOD)
    bench.rig.observe(periods=0, joints=bench.rig.joints())
    bench.rig.observe(periods=0, joints=back, images={"primary": None, "wrist": None})
    bench.rig.await_fault(VlaStatus.JOINT_STATE, "went back", "publisher")
    bench.rig.query()
    bench.rig.query()
    bench.rig.await_state(VlaStatus.RUNNING)


def test_simulated_time_that_jumps_forward_starts_an_episode(bench):
    first, _ = bench.rig.query()
    chunk, _ = bench.rig.query(periods=20 * 3600)
    assert (chunk.episode, chunk.query_number) == (first.episode + 1, 0)
    assert bench.rig.holds  # what was moving has been stopped
    later, _ = bench.rig.query()
    assert later.episode == chunk.episode


@pytest.mark.parametrize("count", [
    300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_random_and_malformed_messages_on_every_topic(ros, count, monkeypatch):
    """The node stays up, publishes nothing unsafe, and works again with good messages."""
    received, rng = counted(monkeypatch), random.Random(count)
    bench = Bench(ros).up()
    node = bench.rig.node
    before, _ = bench.rig.query()
    bench.set(watchdog__latch_after=1e6, guard__latch_after=1_000_000)  # it shall go on and on
    publishers = [
        *((node.create_publisher(Image, f"camera/{c}/image_raw", qos_profile_sensor_data), image)
          for c in ("primary", "wrist")),
        (node.create_publisher(JointState, "joint_states", qos_profile_sensor_data), joints),
        (node.create_publisher(String, "instruction", qos.latched()), text),
        (node.create_publisher(String, "robot_description", qos.latched()), description)]
    for k in range(count + 3):  # a latched topic keeps the newest message only
        bench.rig.now += rng.choice([0, PERIOD, 4 * PERIOD])
        for publisher, make in publishers:
            expected = received.total() + 1
            publisher.publish(make(rng, bench.rig.now))
            assert bench.ros.spin_until(lambda e=expected: received.total() >= e), received
        if k % 10 == 0:
            bench.rig.observe(periods=rng.choice([0, 1, 8]))
    assert len(received) == 5 and min(received.values()) >= count
    if bench.rig.status.latched:
        bench.rig.clear_fault()
    bench.rig.now += 40 * PERIOD
    bench.rig.start()
    bench.rig.instruct(INSTRUCTION + " again")
    bench.rig.until(lambda: bench.rig.status.instruction == INSTRUCTION + " again")
    bench.rig.clear_fault()
    chunk, _ = bench.rig.query()
    assert chunk.episode >= before.episode
    bench.rig.await_state(VlaStatus.RUNNING)


def counted(monkeypatch):
    """Counter of the messages that reach an engine, good or bad, by topic."""
    received = Counter()
    for method in ("on_image", "on_joint_states", "on_instruction", "on_description"):
        real = getattr(Engine, method)

        def counting(self, *arguments, name=method, real=real):
            received[(name, *arguments[:-1])] += 1
            return real(self, *arguments)

        monkeypatch.setattr(Engine, method, counting)
    return received


def random_stamp(rng, now):
    return ns_to_stamp(max(0, rng.choice([
        now, now - PERIOD, now + PERIOD, 0, rng.randrange(2**60), now - rng.randrange(10**10)])))


def image(rng, now):
    message = Image(
        height=rng.choice([0, 1, 8, 64, 2**32 - 1]), width=rng.choice([0, 1, 8, 64, 2**31]),
        encoding=rng.choice(["rgb8", "bgr8", "mono8", "", "bayer_rggb8", "ünknown", "rgba8"]),
        is_bigendian=rng.choice([0, 1]), step=rng.choice([0, 3, 24, 192, 2**32 - 1]),
        data=rng.randbytes(rng.choice([0, 1, 192, 1536, 12288])))
    message.header.stamp = random_stamp(rng, now)
    return message


def number(rng):
    return rng.choice([0.0, rng.gauss(0, 1), rng.gauss(0, 1e6), float("nan"), float("inf"), 1e308])


def joints(rng, now):
    names = ["slide", "turn", "panda_finger_joint1", "panda_finger_joint2", "slide", "", "x"]
    chosen = rng.sample(names, rng.randrange(8)) if rng.random() < 0.5 else names[:4]
    message = JointState(
        name=chosen, position=[number(rng) for _ in range(rng.choice([len(chosen), 3]))],
        velocity=[number(rng) for _ in range(rng.choice([0, len(chosen)]))])
    message.header.stamp = random_stamp(rng, now)
    return message


def text(rng, now):
    return String(data=rng.choice(["", " ", "\x07", "push " * rng.randrange(400), "ünïcode 物",
                                   "pick up the red cube"]))


def description(rng, now):
    return String(data=rng.choice([
        "", "<", "<robot/>", "<robot name='r'><link name='panda_link0'/></robot>", "\x01",
        "<!DOCTYPE r [<!ENTITY a 'b'>]><robot name='&a;'/>", rng.randbytes(40).hex()]))


# --- parameters ----------------------------------------------------------------------------------

def test_200_random_changes_of_parameters_while_queries_run(bench):
    rng, accepted = random.Random(3), 0
    live = [spec for spec in VLA_PARAMETERS if spec.change.name == "LIVE"
            and spec.name not in ("base_frame", "tool_frame", "dry_run", "replan_steps")]
    for k in range(200):
        spec = rng.choice(live)
        values = {spec.name: random_value(rng, spec)}
        revision = bench.node._settings().revision
        result = bench.node.set_parameters_atomically(
            [Parameter(name, value=value) for name, value in values.items()])
        assert result.successful or result.reason
        settings = bench.node._settings()
        settings.check()  # whatever was accepted fits together
        assert settings.revision - revision in (0, 1)
        accepted += settings.revision - revision
        for name, value in settings.items():
            shown = bench.node.get_parameter(name).value
            assert (tuple(shown) if isinstance(value, tuple) else shown) == value, name
        if k % 4 == 0:
            bench.rig.observe()
            bench.ros.spin_until(lambda: False, timeout=0.05)
    assert 50 < accepted < 200
    revision = bench.node._settings().revision
    assert revision == accepted
    for spec in live:  # back to what works
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        if spec.name in ("instruction", "pruning") or spec.derived:
            continue
        bench.node.set_parameters([Parameter(spec.name, value=default)])
    bench.set(pruning="specprune")
    bench.rig.instruct(INSTRUCTION)
    bench.rig.clear_fault()
    chunk, _ = bench.rig.query()
    assert chunk.parameter_revision == bench.node._settings().revision


def random_value(rng, spec):
    """A value of a parameter's type, in its range more often than not."""
    default = spec.default[0] if isinstance(spec.default, tuple) else spec.default

    def one():
        if spec.choices:
            return rng.choice([*spec.choices, "nonsense"])
        if isinstance(default, bool):
            return rng.random() < 0.5
        if isinstance(default, str):
            return rng.choice(["", "push", "panda_finger_joint1"])
        if spec.low is None:
            return type(default)(rng.choice([default, 1, -1]))
        low, high = spec.low, min(spec.high, 10 * abs(default) + 10)
        value = rng.choice([default, rng.uniform(low, high), low - 1, spec.high])
        return type(default)(value)

    return [one() for _ in range(rng.choice([1, 2, 3]))] if isinstance(spec.default, tuple) else (
        one())


# --- processes -----------------------------------------------------------------------------------

def test_bridge_that_is_killed_and_comes_back(ros, processes):
    def bridge():
        return processes.start(BRIDGE, "--ros-args", "-p", "render_size:=32", "-p", "seed:=0")

    bench = Bench(ros, use_proprio="off", base_frame="base", tool_frame="base", min_contrast=0)
    bench.node.trigger_configure()
    bench.node.trigger_activate()
    world = bridge()
    assert ros.spin_until(lambda: len(bench.rig.chunks) >= 4), world.log.read_text()
    world.kill()
    world.wait()
    ros.spin_until(lambda: False, timeout=1.0)
    sent, asked = len(bench.rig.chunks), len(bench.policy.observations)
    ros.spin_until(lambda: False, timeout=2.0)
    assert (len(bench.rig.chunks), len(bench.policy.observations)) == (sent, asked)
    world = bridge()  # its clock begins anew
    assert ros.spin_until(lambda: len(bench.rig.chunks) >= sent + 4), world.log.read_text()
    assert not bench.rig.status.latched
    stamps = [stamp_to_ns(chunk.header.stamp) for chunk in bench.rig.chunks]
    assert stamps[sent] < stamps[sent - 1] + 8 * PERIOD


def test_killed_policy_stops_the_arm_and_a_fresh_one_goes_on(ros, processes):
    rig = Rig(ros)
    twists = []
    rig.node.create_subscription(TwistStamped, "twist", twists.append, 100)
    player = ros.add(ChunkPlayerNode(context=ros.context, parameter_overrides=[
        Parameter("use_sim_time", value=True), Parameter("output", value="twist"),
        Parameter("max_speed.rotation", value=30.0)]))

    def moving(since=0):
        return [t for t in twists if stamp_to_ns(t.header.stamp) > since and (
            t.twist.linear.x or t.twist.angular.x)]

    def flow():
        rig.observe(periods=1)

    process = processes.start(FAKE, "--ros-args", *FAST)
    rig.await_state(VlaStatus.WAITING)
    rig.start()
    rig.until(lambda: len(rig.chunks) >= 2 and moving(), again=flow)
    for _ in range(10):
        flow()
        ros.spin_until(lambda: False, timeout=0.05)
    process.kill()
    process.wait()
    ros.spin_until(lambda: False, timeout=0.5)  # what was on its way
    last = stamp_to_ns(rig.chunks[-1].header.stamp)
    sent = len(rig.chunks)
    for _ in range(60):  # 3 s without a policy
        flow()
        ros.spin_until(lambda: False, timeout=0.03)
    assert len(rig.chunks) == sent
    assert moving(last + 8 * PERIOD) == []  # the chunk was played to its end, then nothing
    assert player.core.state.value in ("holding", "idle", "stopped")
    processes.start(FAKE, "--ros-args", *FAST)
    rig.until(lambda: len(rig.chunks) > sent, again=flow)
    came_back = stamp_to_ns(rig.chunks[sent].header.stamp)
    assert [t for t in moving(last + 8 * PERIOD)
            if stamp_to_ns(t.header.stamp) < came_back] == []
    rig.until(lambda: moving(came_back), again=flow)
    assert rig.chunks[sent].query_number == 0


def test_interrupted_policy_says_good_bye_with_a_hold(ros, processes):
    rig = Rig(ros)
    process = processes.start(FAKE, "--ros-args", *FAST)
    rig.await_state(VlaStatus.WAITING)
    rig.start()
    rig.query()
    process.send_signal(signal.SIGINT)
    rig.until(lambda: rig.holds, again=lambda: None)
    assert process.wait(60) == 0
    assert "Traceback" not in process.log.read_text()


def test_two_instances_in_two_namespaces_do_not_mix(ros, processes):
    seen = {"left": [], "right": []}
    node = ros.node("observer")
    for name in seen:
        node.create_subscription(ActionChunk, f"/{name}/action_chunk", seen[name].append, 10)
        processes.start(FAKE, "--ros-args", *FAST, "-r", f"__ns:=/{name}",
                        "-p", f"instruction:={name} task")
    rig = Rig(ros)  # its clock is everybody's
    feeds = [rig.node.create_publisher(kind, f"/left/{topic}", 10) for kind, topic in (
        (Image, "camera/primary/image_raw"), (Image, "camera/wrist/image_raw"),
        (JointState, "joint_states"))]
    description = rig.node.create_publisher(String, "/left/robot_description", qos.latched())

    def feed():
        rig.observe(periods=1)
        description.publish(String(data=URDF))
        for publisher, message in zip(feeds, (rig.picture("primary"), rig.picture("wrist"),
                                              rig.joints())):
            publisher.publish(message)

    rig.until(lambda: len(seen["left"]) >= 2, again=feed)
    assert all(chunk.instruction == "left task" for chunk in seen["left"])
    for chunk in seen["left"]:
        assert_safe(chunk)
    assert seen["right"] == [] and rig.chunks == []
