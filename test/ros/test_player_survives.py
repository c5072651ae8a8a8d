"""chunk_player_node among random and malformed messages, and joint states that cannot be."""
import random
from collections import Counter

import numpy as np
import pytest
from player_rig import ARM, PERIOD, PlayerRig, action_chunk
from sensor_msgs.msg import JointState
from specprune_ros.msg import ActionChunk, VlaStatus
from std_msgs.msg import String

from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.ros.conversions import ns_to_stamp
from specprune_ros.ros.player_core import PlayerCore, State
from specprune_ros.ros.player_outputs import _JointOutput
from specprune_ros.sim.tabletop.panda import HOME_POSITIONS
from specprune_ros.sim.tabletop.urdf import robot_description

PANDA = ArmKinematics.from_urdf(robot_description(), "panda_link0", "panda_hand_tcp")
COUNTS = [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]


# --- joint states that no arm can have ------------------------------------------------------------

@pytest.mark.parametrize("joint, position, words", [
    (1, 1.9, "limits are -1.763 to 1.763"),  # it is at about 0 in reality
    (1, 1.2, "More than one publisher"),
    (4, 1e300, "limits are"),
])
def test_arm_is_not_sent_to_where_it_cannot_be(ros, joint, position, words):
    """Stopping commands the measured position: that of a broken sensor would be a jump."""
    rig = PlayerRig(ros, "joint_positions").up()
    rig.send()
    rig.tick(3)
    sent_to, true = rig.positions.copy(), rig.positions
    rig.follows, rig.positions = False, np.where(np.arange(7) == joint, position, true)
    sent = len(rig.joints)
    rig.tick(3)
    assert rig.core.state is State.STOPPED and words in rig.core.why
    assert f"panda_joint{joint + 1}" in rig.core.why
    assert len(rig.joints) > sent
    # The motion until it was noticed, one row at most, and then the last target.
    for command in rig.joints[sent:]:
        np.testing.assert_allclose(command, sent_to, atol=0.1)
    rig.follows, rig.positions = True, true
    rig.tick(2)
    rig.send()
    rig.tick(2)
    assert rig.core.state is State.MOVING


def test_arm_that_somebody_has_put_elsewhere_is_believed_in_time(ros):
    rig = PlayerRig(ros, "joint_positions").up()
    rig.positions = rig.positions + np.where(np.arange(7) == 0, 1.0, 0.0)
    rig.tick(1)
    assert "More than one publisher" in rig.player.output.trouble(rig.now)
    rig.tick(12)  # at 2.175 rad/s it can have got there by now
    assert rig.player.output.trouble(rig.now) == ""
    rig.send()
    rig.tick(3)
    assert rig.core.state is State.MOVING


# --- random messages ------------------------------------------------------------------------------

@pytest.mark.parametrize("output", ["twist", "joint_positions"])
@pytest.mark.parametrize("count", COUNTS)
def test_random_and_malformed_messages_on_every_topic(ros, count, output, monkeypatch):
    """It stays up, commands nothing beyond a limit, and plays again with good messages."""
    received, rng = counted(monkeypatch), random.Random(count)
    rig = PlayerRig(ros, output, joint_states_timeout=0.5, latch_after=1_000_000).up()
    topics = [(rig.chunks, chunk), (rig.status, status)]
    if output != "twist":
        topics += [(rig.states, joints), (rig.description, description)]
    received.clear()
    for k in range(count):
        for publisher, make in topics:
            expected = received.total() + 1
            publisher.publish(make(rng, rig.now))
            rig.until(lambda e=expected: received.total() >= e)
        if k % (count // 100) == 0:
            if k % (count // 10) == 0:
                rig.description.publish(String(data=robot_description()))
                rig.call("clear_fault")
            rig.tick(rng.choice([1, 1, 3]), status=rng.random() < 0.7, joints=rng.random() < 0.7)
            if rng.random() < 0.5:
                rig.send()
        assert_within_limits(rig)
    rig.description.publish(String(data=robot_description()))
    rig.call("clear_fault")
    rig.positions = np.array(HOME_POSITIONS)
    rig.tick(60)  # until it can have got there
    rig.send()
    rig.tick(3)
    assert rig.core.state is State.MOVING, rig.story()
    counters = rig.core.counters
    assert counters.rejected > count / 2 and counters.moves > 0


def counted(monkeypatch):
    """Counter of the messages that reach a player, good or bad, by topic."""
    received = Counter()
    for owner, method in ((PlayerCore, "on_chunk"), (PlayerCore, "on_status"),
                          (_JointOutput, "on_joint_states"), (_JointOutput, "describe")):
        real = getattr(owner, method)

        def counting(self, *arguments, name=method, real=real):
            received[name] += 1
            return real(self, *arguments)

        monkeypatch.setattr(owner, method, counting)
    return received


def assert_within_limits(rig):
    """Whether everything commanded so far is finite, and no faster or farther than allowed."""
    for message in rig.twists:
        linear, angular = message.twist.linear, message.twist.angular
        speeds = np.array([[linear.x, linear.y, linear.z], [angular.x, angular.y, angular.z]])
        assert np.isfinite(speeds).all()
        assert (np.linalg.norm(speeds, axis=1) <= np.array([1.0, 3.0]) * (1 + 1e-6)).all()
    lower, upper = PANDA.position_limits
    for command in rig.joints:
        assert np.isfinite(command).all()
        assert (command >= lower - 0.05).all() and (command <= upper + 0.05).all()
    for message in rig.grippers:
        assert message.data.tolist() in ([0.04, 0.04], [0.0, 0.0])
    rig.twists.clear()
    rig.joints.clear()
    rig.grippers.clear()


def number(rng):
    return rng.choice([0.0, rng.uniform(-1, 1), rng.gauss(0, 1e3), float("nan"), float("inf"),
                       -1e308])


def stamp(rng, now):
    return max(0, rng.choice([now, now - PERIOD, now + PERIOD, now + 10 * PERIOD, 0,
                              rng.randrange(2**60), now - rng.randrange(10**10)]))


def chunk(rng, now):
    rows = rng.choice([0, 1, 8, 8, 8, 2**32 - 1])
    values = [[rng.uniform(-1, 1) for _ in range(56)], [number(rng) for _ in range(56)], [],
              [rng.uniform(0, 1) for _ in range(7)]]
    changes = {
        "horizon": rows, "dof": rng.choice([7, 7, 7, 0, 6, 2**32 - 1]),
        "data": rng.choice(values), "dt": rng.choice([0.05, 0.05, 0.0, -0.05, float("nan")]),
        "action_space": rng.choice([1, 1, 1, 0, 200]),
        "gripper_convention": rng.choice([1, 1, 2, 0, 200]),
        "unit_scale": rng.choice([[0.05] * 3 + [0.1] * 3 + [1.0], [], [number(rng)] * 7]),
        "source": rng.choice([0, 0, 1, 2, 200]),
        "frame_id": rng.choice(["panda_link0", "panda_link0", "", "world", "ünknown"])}
    return action_chunk(stamp(rng, now), **changes)


def status(rng, now):
    return VlaStatus(state=rng.choice([VlaStatus.RUNNING, VlaStatus.RUNNING, 0, 1, 2, 4, 250]),
                     latched=rng.random() < 0.1)


def joints(rng, now):
    names = [*ARM, "panda_finger_joint1", "panda_joint1", ""]
    chosen = rng.sample(names, rng.randrange(10)) if rng.random() < 0.7 else list(ARM)
    message = JointState(name=chosen, position=[
        number(rng) for _ in range(rng.choice([len(chosen), 3]))])
    message.header.stamp = ns_to_stamp(stamp(rng, now))
    return message


def description(rng, now):
    return String(data=rng.choice([
        "", "<", "<robot/>", "\x01", "<robot name='r'><link name='panda_link0'/></robot>",
        robot_description(), robot_description(), rng.randbytes(40).hex()]))


def test_fields_of_a_chunk_that_are_random_are_the_messages_own():
    """The generator of this file makes chunks that pass as well as chunks that do not."""
    rng = random.Random(0)
    made = [chunk(rng, 10**10) for _ in range(2000)]
    good = [m for m in made if m.horizon * m.dof == len(m.data) and m.action_space == 1]
    assert 50 < len(good) < 1500
    assert {m.source for m in good} >= {ActionChunk.POLICY, ActionChunk.HOLD}
