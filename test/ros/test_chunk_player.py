"""chunk_player_node over DDS: what it commands, when it holds, when it stops."""
import math

import numpy as np
import pytest
from player_rig import ARM, PERIOD, PlayerRig, action_chunk
from specprune_ros.msg import ActionChunk, VlaStatus

from specprune_ros.errors import ConfigurationError
from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.ros.player_core import State
from specprune_ros.sim.tabletop.urdf import robot_description


def linear_x(rig):
    return [twist.twist.linear.x for twist in rig.twists]


def test_twists_are_the_rows_as_velocities_and_zeros_when_they_are_over(ros):
    rig = PlayerRig(ros, "twist").up()
    rig.tick(2)
    assert rig.twists == []  # nothing was played yet: nothing is commanded
    rig.send()
    rig.tick(12)
    velocities = linear_x(rig)
    assert sum(velocities) * 0.05 == pytest.approx(8 * 0.5 * 0.05 - 0.025, abs=0.026)
    assert velocities[:7] == pytest.approx([0.5] * 7)
    assert velocities[9:] == [0.0] * (len(velocities) - 9)
    twist = rig.twists[0]
    assert twist.header.frame_id == "panda_link0"
    assert rig.grippers[0].data.tolist() == [0.04, 0.04]
    assert rig.core.state is State.HOLDING and rig.core.counters.holds >= 3
    rig.tick(25)
    assert rig.core.state is State.IDLE
    sent = len(rig.twists)
    rig.tick(2)
    assert len(rig.twists) == sent  # silent from now on


@pytest.mark.parametrize("output", ["joint_positions", "joint_trajectory"])
def test_joint_targets_move_the_tool_as_the_rows_say(ros, output):
    rig = PlayerRig(ros, output).up()
    panda = ArmKinematics.from_urdf(robot_description(), "panda_link0", "panda_hand_tcp")
    start, _ = panda.tool_pose(rig.positions)
    actions = np.zeros((8, 7))
    actions[:, :3], actions[:, 6] = (0.2, 0.1, -0.2), 0.0
    rig.send(data=actions.ravel().tolist())
    rig.tick(12)
    there, _ = panda.tool_pose(rig.positions)
    # The first command comes one period after the chunk's stamp: its first row is over by then.
    expected = 7 * 0.05 * np.array([0.2, 0.1, -0.2])
    np.testing.assert_allclose(there - start, expected, atol=1e-3)
    assert rig.grippers[-1].data.tolist() == [0.0, 0.0]
    if output == "joint_trajectory":
        message = rig.trajectories[0]
        assert tuple(message.joint_names) == ARM
        assert message.points[0].time_from_start.nanosec == PERIOD
        assert message.header.stamp.sec == 0  # from now on


@pytest.mark.parametrize("changes, words", [
    ({"frame_id": "world"}, "frame_id"),
    ({"dt": 0.1}, "dt is 0.1"),
    ({"dof": 6}, "fit together"),
    ({"data": [0.0] * 55}, "fit together"),
    ({"data": [math.nan] * 56}, "row 0"),
    ({"data": [1.5] * 56}, "controller's range"),
    ({"unit_scale": [0.05] * 6 + [-1.0]}, "unit_scale"),
    ({"unit_scale": [0.2] * 3 + [0.5] * 3 + [1.0]}, "max_speed.translation"),
    ({"action_space": 9}, "action_space"),
    ({"gripper_convention": 9}, "gripper_convention"),
    ({"source": ActionChunk.HOLD}, "HOLD"),
])
def test_chunk_that_an_arm_must_not_be_given(ros, changes, words, capfd):
    rig = PlayerRig(ros, "twist").up()
    rig.send(**changes)
    assert rig.core.counters.rejected == 1
    rig.tick(3)
    assert rig.twists == [] and rig.core.state is State.IDLE
    assert words in capfd.readouterr().err
    rig.send()
    rig.tick(2)
    assert rig.core.state is State.MOVING


def test_old_chunk_and_one_of_another_clock_are_refused(ros):
    rig = PlayerRig(ros, "twist").up()
    for stamp in (rig.now - 8 * PERIOD, rig.now + 3 * PERIOD, 1_800_000_000 * 10**9, 0):
        rig.send(action_chunk(stamp))
    assert rig.core.counters.rejected == 4
    rig.tick(3)
    assert rig.twists == []


def test_late_chunk_is_played_from_the_row_of_the_present(ros):
    rig = PlayerRig(ros, "twist").up()
    actions = np.zeros((8, 7))
    actions[:, 0] = np.arange(8) / 10
    rig.send(action_chunk(rig.now - 5 * PERIOD, data=actions.ravel().tolist()))
    rig.tick(4)
    assert linear_x(rig)[:2] == pytest.approx([0.6, 0.7])
    assert not any(linear_x(rig)[2:])


def test_hold_chunk_ends_the_motion_at_once(ros):
    rig = PlayerRig(ros, "twist", fade_steps=3).up()
    rig.send()
    rig.tick(4)
    assert linear_x(rig)[-1] > 0
    rig.send(source=ActionChunk.HOLD, data=[0, 0, 0, 0, 0, 0, 1.0] * 8)
    rig.tick(2)
    assert linear_x(rig)[-2:] == [0.0, 0.0]


@pytest.mark.parametrize("status", [{"latched": True, "state": VlaStatus.FAULT},
                                    {"state": VlaStatus.INACTIVE},
                                    {"state": VlaStatus.UNCONFIGURED}])
def test_policy_that_is_latched_or_inactive_stops_the_arm(ros, status):
    rig = PlayerRig(ros, "twist").up()
    rig.send()
    rig.tick(3)
    rig.tell(**status)
    rig.until(lambda: rig.core._status.state == status["state"])
    rig.tick(3, status=False)
    assert rig.core.state is State.STOPPED
    assert linear_x(rig)[-1] == 0.0
    sent = len(rig.twists)
    rig.tick(3, status=False)
    assert len(rig.twists) == sent  # one zero, then nothing
    rig.tell()
    rig.until(lambda: rig.core._status.state == VlaStatus.RUNNING)
    rig.send()
    rig.tick(2)
    assert rig.core.state is State.MOVING


def test_policy_that_is_silent_stops_the_arm(ros):
    rig = PlayerRig(ros, "twist").up()
    rig.send()
    rig.tick(2)
    rig.core._status_at -= 2.1  # as if no status had come for so long
    rig.tick(1, status=False)
    assert rig.core.state is State.STOPPED and "silent" in rig.core.why


def test_nothing_moves_before_the_policy_has_said_anything(ros):
    rig = PlayerRig(ros, "twist")
    rig.until(lambda: rig.player.get_clock().now().nanoseconds == rig.now, again=rig.again)
    rig.send()
    rig.tick(3, status=False)
    assert rig.twists == [] and "no vla_status" in rig.core.why


def test_stop_is_latched_until_cleared(ros):
    rig = PlayerRig(ros, "joint_positions").up()
    rig.send()
    rig.tick(3)
    assert rig.call("stop").success
    rig.tick(1)
    stopped_at = rig.positions.copy()
    rig.send()
    rig.tick(3)
    np.testing.assert_array_equal(rig.positions, stopped_at)
    assert rig.core.state is State.STOPPED
    assert "~/stop" in rig.call("clear_fault").message
    rig.tick(2)
    np.testing.assert_array_equal(rig.positions, stopped_at)  # what came before is not played
    rig.send()
    rig.tick(3)
    assert rig.core.state is State.MOVING


def test_joint_states_that_stop_stop_the_arm(ros):
    rig = PlayerRig(ros, "joint_positions").up()
    rig.send()
    rig.tick(3)
    rig.now += 10 * PERIOD
    rig.tick(1, joints=False)
    rig.send()
    rig.tick(1, joints=False)
    assert rig.core.state is State.STOPPED and "joint_states_timeout" in rig.core.why
    rig.tick(2)
    rig.send()
    rig.tick(2)
    assert rig.core.state is State.MOVING


def test_arm_that_does_not_follow_is_stopped_for_good(ros):
    rig = PlayerRig(ros, "joint_positions", joints__tracking=0.02).up()
    rig.follows = False
    rig.send()
    rig.tick(7)
    assert rig.core.state is State.STOPPED and "away from where it was sent" in rig.core.why
    np.testing.assert_allclose(rig.joints[-1], rig.positions)  # it is told to stand where it is
    assert rig.core.latch.reason


def test_arm_at_its_limit_holds_and_then_latches(ros):
    rig = PlayerRig(ros, "joint_positions", latch_after=3)
    rig.positions[5] = 0.01  # joint 6 at the margin of its lower limit, and half beyond
    rig.up()
    actions = np.zeros((8, 7))
    actions[:, :3] = (0.57, 0.57, 0.57)
    rig.send(data=actions.ravel().tolist(), unit_scale=[0.05] * 3 + [0.5] * 3 + [1.0])
    rig.send(action_chunk(rig.now + PERIOD // 2, data=actions.ravel().tolist()))
    start = rig.positions.copy()
    for _ in range(4):
        rig.tick(4)
        if rig.core.latch.reason:
            break
        rig.send(data=actions.ravel().tolist())
    lower, upper = ArmKinematics.from_urdf(
        robot_description(), "panda_link0", "panda_hand_tcp").position_limits
    assert (rig.positions >= np.minimum(lower, start) - 1e-9).all()
    assert (rig.positions <= upper + 1e-9).all()


def test_clock_that_is_set_back_forgets_the_chunk(ros):
    rig = PlayerRig(ros, "twist").up()
    rig.send()
    rig.tick(2)
    rig.now = 10 * PERIOD
    rig.until(lambda: rig.player.get_clock().now().nanoseconds == rig.now, again=rig.again)
    moved = len([x for x in linear_x(rig) if x])
    rig.tick(3)
    assert len([x for x in linear_x(rig) if x]) == moved
    rig.send()
    rig.tick(2)
    assert rig.core.state is State.MOVING


def test_settings_that_do_not_fit_end_the_start(ros):
    with pytest.raises(ConfigurationError, match="choose one"):
        PlayerRig(ros, "twist", ensemble__enabled=True, fade_steps=2)


def test_seam_settings_are_live_and_vetoed_together(ros):
    rig = PlayerRig(ros, "twist").up()

    def set_(**values):
        from rclpy.parameter import Parameter
        return rig.player.set_parameters_atomically(
            [Parameter(n.replace("__", "."), value=v) for n, v in values.items()])

    assert set_(fade_steps=3).successful
    assert not set_(ensemble__enabled=True).successful
    assert not set_(output="none").successful
    rig.send()
    rig.tick(4)
    assert linear_x(rig)[:3] == pytest.approx([0.125, 0.25, 0.375])


def test_diagnostics_tell_the_state_and_the_counters(ros):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

    rig = PlayerRig(ros, "twist").up()
    seen = []
    rig.node.create_subscription(DiagnosticArray, "/diagnostics", seen.append, 10)
    rig.call("stop")
    rig.tick(1)
    rig.until(lambda: seen and b"\x02" == seen[-1].status[0].level)
    status = seen[-1].status[0]
    assert status.name == "chunk_player_node: motion" and status.level == DiagnosticStatus.ERROR
    assert "~/stop" in status.message
    assert {"output", "chunks", "rejected", "stops"} <= {value.key for value in status.values}
