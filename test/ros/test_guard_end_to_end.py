"""Chunks that exceed the limits, through the real nodes: bridge, vla_node and player.

The policy is the untrained checkpoint of the package, whose actions go far beyond any robot's.
"""
import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from sim_bridge_harness import PROCESS as BRIDGE
from specprune_ros.msg import ActionChunk, SimStatus, VlaStatus
from std_msgs.msg import Float64MultiArray
from vla_rig import VLA_NODE, Rig, rows

from specprune_ros.ros.chunk_player_node import ChunkPlayerNode

LATCH_AFTER = 4


@pytest.fixture
def world(ros, processes):
    """The three nodes, and what they publish."""
    world = World(ros)
    processes.start(*VLA_NODE, "-p", "checkpoint:=specprune-tiny", "-p", "use_proprio:='off'",
                    "-p", "base_frame:=base", "-p", "tool_frame:=base", "-p", "min_contrast:=0",
                    "-p", "guard.max_command:=1.0", "-p", f"guard.latch_after:={LATCH_AFTER}",
                    "-p", "watchdog.inference_deadline:=60.0")
    world.rig.await_state(VlaStatus.WAITING)
    processes.start(BRIDGE, "--ros-args", "-p", "render_size:=64", "-p", "max_steps:=1000",
                    "-p", "chunk_timeout:=1.0")
    return world


class World:

    def __init__(self, ros):
        self.rig = Rig(ros)  # it only listens
        self.player = ros.add(ChunkPlayerNode(context=ros.context, parameter_overrides=[
            Parameter("use_sim_time", value=True), Parameter("output", value="twist"),
            Parameter("base_frame", value="base"), Parameter("max_speed.rotation", value=30.0),
            Parameter("max_speed.translation", value=10.0)]))
        self.twists, self.grippers, self.joints, self.sim = [], [], [], []
        node = self.rig.node
        node.create_subscription(TwistStamped, "twist", self.twists.append, 100)
        node.create_subscription(Float64MultiArray, "gripper_positions", self.grippers.append, 100)
        node.create_subscription(JointState, "joint_states", self.joints.append, 100)
        node.create_subscription(SimStatus, "sim_status", self.sim.append, 100)

    def until(self, condition):
        self.rig.until(condition, again=lambda: None)

    @property
    def moved(self):
        """Largest distance of the simulated point from where it began."""
        return max(np.abs(message.position[:3]).max() for message in self.joints)


def test_what_exceeds_the_limits_reaches_neither_simulator_nor_arm(world):
    rig = world.rig
    world.until(lambda: rig.status.latched)
    status = rig.status
    # Queries are tried pruned and, in their place, dense, unless time is up by then. One whose
    # episode was given up meanwhile, as at the start, counts as no failure.
    assert LATCH_AFTER < status.rejected <= 2 * status.queries and status.failures == LATCH_AFTER
    assert (status.chunks, status.dense_fallbacks, status.fault_code) == (0, 0, VlaStatus.GUARD)
    assert status.last_rejection
    assert rig.chunks == []
    # Of every observation that had no answer, and one when the fault was latched.
    world.until(lambda: len(rig.holds) >= LATCH_AFTER)
    for hold in rig.holds:
        assert hold.source == ActionChunk.HOLD and not rows(hold)[:, :6].any()
    world.until(lambda: world.sim and world.joints)
    assert world.moved == 0.0
    assert world.sim[-1].held_steps == world.sim[-1].step and world.sim[-1].chunks == 0
    assert world.grippers == []  # the neutral command: as it is
    assert world.twists
    for twist in world.twists:
        linear, angular = twist.twist.linear, twist.twist.angular
        assert not any((linear.x, linear.y, linear.z, angular.x, angular.y, angular.z))

    # The same policy, once it may: what held it back was the guard.
    assert rig.set_parameter("guard.max_command", 1000.0).successful
    assert f"{LATCH_AFTER} failures in a row" in rig.clear_fault().message
    world.until(lambda: rig.chunks and world.moved > 0.0)
    assert all(np.abs(rows(chunk)[:, :6]).max() <= 1.0 for chunk in rig.chunks)
