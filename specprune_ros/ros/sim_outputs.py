"""What sim_bridge_node publishes of a simulated world."""
from __future__ import annotations

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from specprune_ros.msg import SimStatus

from ..sim.base import SimObservation
from .conversions import ns_to_stamp, rgb_to_compressed, rgb_to_image
from .sim_parameters import BridgeParameters

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL,
                     reliability=ReliabilityPolicy.RELIABLE)


class WorldOutputs:
    """Publishers of a simulated world; stamps are simulated time in nanoseconds."""

    def __init__(self, node: Node, parameters: BridgeParameters) -> None:
        self._compressed = parameters.image_transport == "compressed"
        # In lockstep this many observations may be on their way before the world waits for an
        # answer: a reliable subscription of the same depth loses none, however slow it is.
        depth = max(16, parameters.replan_steps + 1)
        kind, suffix = (CompressedImage, "/compressed") if self._compressed else (Image, "")
        self._cameras = {
            name: (node.create_publisher(kind, f"camera/{name}/image_raw{suffix}", depth), frame)
            for name, frame in zip(parameters.cameras, parameters.frame_ids, strict=True)}
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._joints = node.create_publisher(JointState, "joint_states", depth)
        self._description = node.create_publisher(String, "robot_description", LATCHED)
        self._instruction = node.create_publisher(String, "instruction", LATCHED)
        self._status = node.create_publisher(SimStatus, "sim_status", 50)

    def describe_robot(self, urdf: str) -> None:
        self._description.publish(String(data=urdf))

    def instruct(self, instruction: str) -> None:
        self._instruction.publish(String(data=instruction))

    def time(self, stamp_ns: int) -> None:
        """Publish the clock alone."""
        self._clock.publish(Clock(clock=ns_to_stamp(stamp_ns)))

    def observation(self, observation: SimObservation, stamp_ns: int, images: bool = True) -> None:
        """Publish the clock, the joint states and, if ``images``, the cameras, in this order.

        Time comes first so that a receiver on simulated time never sees data of its future; the
        joint states come before the images that make vla_node look for them.
        """
        stamp = ns_to_stamp(stamp_ns)
        self.time(stamp_ns)
        joints = JointState(name=list(observation.joint_names),
                            position=observation.joint_positions.tolist(),
                            velocity=observation.joint_velocities.tolist())
        joints.header.stamp = stamp
        self._joints.publish(joints)
        if not images:
            return
        convert = rgb_to_compressed if self._compressed else rgb_to_image
        for name, (publisher, frame_id) in self._cameras.items():
            publisher.publish(convert(observation.images[name], stamp, frame_id))

    def status(self, status: SimStatus) -> None:
        self._status.publish(status)

    def flush(self, timeout: float = 2.0) -> None:
        """Wait until reliable subscribers have everything, but not for ever (wall seconds)."""
        for publisher in (self._status, self._joints, self._clock):
            publisher.wait_for_all_acked(Duration(seconds=timeout))
