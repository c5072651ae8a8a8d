"""What chunk_player_node publishes: twists, joint trajectories, joint positions; the gripper."""
from __future__ import annotations

import math

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ..errors import JointStateError
from ..robot.joint_motion import JointMotion, check_reading
from ..robot.kinematics import ArmKinematics
from ..robot.motion import NEUTRAL_GRIPPER, Motion
from . import qos
from .conversions import NANOSECONDS, ns_to_stamp, stamp_to_ns
from .player_core import Output
from .player_parameters import PlayerSettings

_PATIENCE = 0.5  # wall s for subscribers that are slow to take the last command


def make_output(node: Node, settings: PlayerSettings) -> Output:
    """The output that the parameter ``output`` names, and the gripper beside it."""
    kinds = {"none": Output, "twist": TwistOutput, "joint_positions": JointPositionsOutput,
             "joint_trajectory": JointTrajectoryOutput}
    kind = kinds[settings["output"]]
    return kind() if kind is Output else kind(node, settings)


class _Publishing(Output):
    """An output with a publisher of its own and one for the gripper."""

    def __init__(self, node: Node, settings: PlayerSettings) -> None:
        self.settings = settings
        self._node = node
        self._publishers: list[Publisher] = []
        self._gripper = self._advertise(Float64MultiArray, "gripper_positions")

    def apply(self, settings: PlayerSettings) -> None:
        self.settings = settings

    def _advertise(self, kind: type, topic: str):
        publisher = self._node.create_publisher(
            kind, topic, qos.results(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())
        self._publishers.append(publisher)
        return publisher

    def flush(self) -> None:
        for publisher in self._publishers:
            publisher.wait_for_all_acked(Duration(seconds=_PATIENCE))

    def _move_gripper(self, command: float) -> None:
        """0 close .. 1 open, by the nearer end; the middle leaves it as it is."""
        if command == NEUTRAL_GRIPPER or not self.settings["gripper.open"]:
            return
        end = "gripper.open" if command > NEUTRAL_GRIPPER else "gripper.closed"
        self._gripper.publish(Float64MultiArray(data=list(self.settings[end])))


class TwistOutput(_Publishing):
    """TwistStamped for MoveIt Servo: velocity of the tool in the axes of the base (m/s, rad/s)."""

    def __init__(self, node: Node, settings: PlayerSettings) -> None:
        super().__init__(node, settings)
        self._twists = self._advertise(TwistStamped, "twist")

    def move(self, motion: Motion, now: int) -> None:
        self._publish(motion.step / motion.duration, now)
        self._move_gripper(motion.gripper)

    def hold(self, motion: Motion, now: int) -> None:
        self._publish(np.zeros(6), now)

    def stop(self, now: int) -> None:
        self._publish(np.zeros(6), now)

    def _publish(self, twist: np.ndarray, now: int) -> None:
        message = TwistStamped()
        message.header.stamp = ns_to_stamp(now)
        message.header.frame_id = self.settings["base_frame"]
        linear, angular = message.twist.linear, message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, twist)
        self._twists.publish(message)


class _JointOutput(_Publishing):
    """An output that knows the joints. Set up by a robot description and by joint states."""

    needs_joints = True

    def __init__(self, node: Node, settings: PlayerSettings) -> None:
        super().__init__(node, settings)
        self._motion: JointMotion | None = None
        self._measured: np.ndarray | None = None  # [n], in the order of the joint names
        self._measured_at = 0
        self._defect = "no robot_description has come yet"

    def describe(self, urdf: str) -> None:
        """Take a robot description; one that cannot be used is told by :meth:`trouble`."""
        try:
            kinematics = ArmKinematics.from_urdf(
                urdf, self.settings["base_frame"], self.settings["tool_frame"])
        except Exception as error:  # whoever publishes it must not end the node
            self._motion, self._defect = None, f"robot_description: {error}"
            return
        self._motion = JointMotion(kinematics, self.settings.joint_limits())
        self._measured, self._defect = None, ""

    def apply(self, settings: PlayerSettings) -> None:
        """Use other limits; where the arm was sent stays known."""
        super().apply(settings)
        if self._motion is not None:
            target = self._motion.target
            self._motion = JointMotion(self._motion.kinematics, settings.joint_limits())
            self._motion.target = target

    def on_joint_states(self, message: JointState) -> None:
        """Take the positions of the arm; a message that cannot be used changes nothing."""
        if self._motion is None:
            return
        if len(set(message.name)) != len(message.position):
            self._defect = (f"joint states have {len(set(message.name))} different names and "
                            f"{len(message.position)} positions")
            return
        stamp = stamp_to_ns(message.header.stamp)
        elapsed = (stamp - self._measured_at) / NANOSECONDS
        if -1.0 < elapsed < 0.0:
            return  # overtaken by a newer one
        # Earlier by more than that: the clock was set, and the arm may be anywhere.
        before = self._measured if elapsed >= 0.0 else None
        kinematics = self._motion.kinematics
        try:
            positions = kinematics.select(dict(zip(message.name, message.position)))
            check_reading(kinematics, positions, before, elapsed)
        except JointStateError as error:
            self._defect = str(error)
            return
        self._measured, self._measured_at, self._defect = positions, stamp, ""

    def trouble(self, now: int) -> str:
        if self._defect:
            return self._defect
        timeout = self.settings["joint_states_timeout"]
        age = (now - self._measured_at) / NANOSECONDS
        if self._measured is None:
            return "no joint states have come yet"
        if not abs(age) <= timeout:
            return f"joint states are older than joint_states_timeout ({timeout:g} s)"
        return ""

    def move(self, motion: Motion, now: int) -> None:
        self._send(self._motion.step(motion.step, motion.duration, self._measured),
                   motion.duration)
        self._move_gripper(motion.gripper)

    def hold(self, motion: Motion, now: int) -> None:
        if self._motion is not None and self._motion.target is not None:
            self._send(self._motion.target, motion.duration)

    def stop(self, now: int) -> None:
        """Stand where the arm is; where that is not known, where it was sent last."""
        if self._motion is None:
            return
        known = self._measured is not None and not self.trouble(now)
        target = self._measured if known else self._motion.target
        if target is not None:
            self._send(target, self.settings["control_period"])

    def forget(self) -> None:
        if self._motion is not None:
            self._motion.forget()

    def _send(self, positions: np.ndarray, duration: float) -> None:
        raise NotImplementedError


class JointPositionsOutput(_JointOutput):
    """Float64MultiArray for a forward_command_controller: positions in the order of the joints
    from base_frame to tool_frame."""

    def __init__(self, node: Node, settings: PlayerSettings) -> None:
        super().__init__(node, settings)
        self._positions = self._advertise(Float64MultiArray, "joint_positions")

    def _send(self, positions: np.ndarray, duration: float) -> None:
        self._positions.publish(Float64MultiArray(data=positions.tolist()))


class JointTrajectoryOutput(_JointOutput):
    """JointTrajectory of one point, one control period ahead, for a joint_trajectory_controller."""

    def __init__(self, node: Node, settings: PlayerSettings) -> None:
        super().__init__(node, settings)
        self._trajectories = self._advertise(JointTrajectory, "joint_trajectory")

    def _send(self, positions: np.ndarray, duration: float) -> None:
        point = JointTrajectoryPoint(positions=positions.tolist())
        seconds, rest = math.floor(duration), duration % 1.0
        point.time_from_start.sec, point.time_from_start.nanosec = seconds, round(rest * 1e9)
        # Stamp 0: to be followed from now on.
        self._trajectories.publish(JointTrajectory(
            joint_names=list(self._motion.kinematics.joint_names), points=[point]))
