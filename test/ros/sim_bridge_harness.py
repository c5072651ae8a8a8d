"""A scripted policy over DDS, for the tests of sim_bridge_node."""
from array import array
from pathlib import Path

import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from specprune_ros.msg import ActionChunk, SimStatus, VlaStatus
from std_msgs.msg import String
from std_srvs.srv import Trigger

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PROCESS = Path(__file__).with_name("sim_bridge_fakes.py")


def chunk_message(stamp, instruction, rows=8, **changes):
    """A chunk that PointWorld can play: no motion, gripper open, in the data set's convention."""
    actions = np.zeros((rows, 7))
    actions[:, 6] = 1.0
    message = ActionChunk(
        dt=0.05, horizon=rows, dof=7, action_space=ActionChunk.EE_DELTA_POSE,
        gripper_convention=ActionChunk.ZERO_CLOSE_ONE_OPEN, instruction=instruction,
        unit_scale=[0.05] * 3 + [0.5] * 3 + [1.0])
    message.header.stamp = stamp
    message.header.frame_id = "base"
    message.data = array("d", actions.ravel())
    for name, value in changes.items():
        setattr(message, name, array("d", value) if name in ("data", "unit_scale") else value)
    return message


class ScriptedPolicy:
    """Node "vla_node": answers resets and keeps everything it receives, in order of arrival.

    ``on_image(policy, stamp, count)`` is called for every primary image, ``count`` from 1 within
    an episode. A reset is refused while ``refuse`` holds, and answered by ``reset_message()``.
    """

    def __init__(self, node, on_image=lambda policy, stamp, count: None):
        self.node = node
        self.on_image = on_image
        self.refuse = False
        self.reset_message = lambda: ""
        self.instruction = ""
        self.resets = 0
        self.images_of_episode = 0
        self.events = []
        self.images, self.wrists, self.joints, self.clocks, self.statuses = [], [], [], [], []
        self.descriptions = []
        self._chunks = node.create_publisher(ActionChunk, "action_chunk", 10)
        self._status = node.create_publisher(VlaStatus, "vla_status", LATCHED)
        node.create_subscription(Image, "camera/primary/image_raw", self._image, 50)
        node.create_subscription(Image, "camera/wrist/image_raw", self.wrists.append, 50)
        node.create_subscription(JointState, "joint_states", self.joints.append, 50)
        node.create_subscription(Clock, "/clock", self.clocks.append, 50)
        node.create_subscription(SimStatus, "sim_status", self._sim_status, 50)
        node.create_subscription(String, "instruction", self._instruct, LATCHED)
        node.create_subscription(String, "robot_description", self.descriptions.append, LATCHED)
        node.create_service(Trigger, "vla_node/reset_episode", self._reset)

    def publish(self, message):
        self._chunks.publish(message)

    def report(self, **fields):
        """Publish a VlaStatus with the instruction and these fields."""
        self._status.publish(VlaStatus(instruction=self.instruction, **fields))

    def answer(self, stamp, **changes):
        self.publish(chunk_message(stamp, **{"instruction": self.instruction, **changes}))

    def _instruct(self, message):
        self.instruction = message.data
        self.events.append(("instruction", message.data))
        self.report()

    def _reset(self, _request, response):
        self.resets += 1
        self.events.append(("reset", self.resets))
        self.images_of_episode = 0
        response.success = not self.refuse
        response.message = "the script refuses" if self.refuse else self.reset_message()
        return response

    def _image(self, message):
        self.images.append(message)
        self.images_of_episode += 1
        self.events.append(("image", nanoseconds(message.header.stamp)))
        self.on_image(self, message.header.stamp, self.images_of_episode)

    def _sim_status(self, message):
        self.statuses.append(message)
        self.events.append(("status", message.step))


def every_eighth(policy, stamp, count):
    """Answer as vla_node does: at the first image of an episode and after every 8 periods."""
    if (count - 1) % 8 == 0:
        policy.answer(stamp)


def nanoseconds(stamp):
    return stamp.sec * 1_000_000_000 + stamp.nanosec
