"""The world around vla_node in a test: cameras, joints, a task and a clock, over DDS."""
import numpy as np
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from specprune_ros.msg import ActionChunk, PruneStats, VlaStatus
from std_msgs.msg import String
from std_srvs.srv import Trigger

from specprune_ros.ros import qos
from specprune_ros.ros.conversions import (
    ns_to_stamp,
    rgb_to_compressed,
    rgb_to_image,
    stamp_to_ns,
)
from specprune_ros.share import share_dir

#: Arguments of Python that start the node. The file comes first, so that what follows wins.
VLA_NODE = ("-m", "specprune_ros.ros.vla_node", "--ros-args",
            "--params-file", share_dir() / "config" / "vla.yaml", "-p", "use_sim_time:=true")

PERIOD = 50_000_000  # ns, one control period
INSTRUCTION = "pick up the red cube"
JOINTS = ("slide", "turn", "panda_finger_joint1", "panda_finger_joint2")

#: An arm of two joints: the tool slides along x of the base, and turns about its z.
URDF = """<robot name="two_joints">
  <link name="panda_link0"/><link name="slider"/><link name="panda_hand_tcp"/>
  <link name="finger1"/><link name="finger2"/>
  <joint name="slide" type="prismatic"><parent link="panda_link0"/><child link="slider"/>
    <axis xyz="1 0 0"/><limit lower="-9" upper="9" effort="1" velocity="9"/></joint>
  <joint name="turn" type="revolute"><parent link="slider"/><child link="panda_hand_tcp"/>
    <origin xyz="0 0 0.5" rpy="3.141592653589793 0 0"/><axis xyz="0 0 1"/>
    <limit lower="-9" upper="9" effort="1" velocity="9"/></joint>
  <joint name="panda_finger_joint1" type="prismatic"><parent link="panda_hand_tcp"/>
    <child link="finger1"/><axis xyz="0 1 0"/>
    <limit lower="0" upper="1" effort="1" velocity="1"/></joint>
  <joint name="panda_finger_joint2" type="prismatic"><parent link="panda_hand_tcp"/>
    <child link="finger2"/><axis xyz="0 -1 0"/>
    <limit lower="0" upper="1" effort="1" velocity="1"/></joint>
</robot>"""


class Rig:
    """Publishes what vla_node needs, on a clock of its own, and keeps what it answers.

    Time is simulated, so that nothing is stale because the machine is slow. What is published is
    published again while a test waits: topics are best effort, and discovery takes its time.
    """

    def __init__(self, ros, cameras=("primary", "wrist"), compressed=False):
        self._ros = ros
        self.node = node = ros.node("rig")
        self.now = 1000 * PERIOD
        self.size = 64
        self.chunks, self.holds, self.previews = [], [], []
        self.stats, self.statuses = [], []
        kind, suffix = (CompressedImage, "/compressed") if compressed else (Image, "")
        self._convert = rgb_to_compressed if compressed else rgb_to_image
        self._cameras = {name: node.create_publisher(kind, f"camera/{name}/image_raw{suffix}", 5)
                         for name in cameras}
        self._joints = node.create_publisher(JointState, "joint_states", 10)
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._instruction = node.create_publisher(String, "instruction", qos.latched())
        self._description = node.create_publisher(String, "robot_description", qos.latched())
        node.create_subscription(ActionChunk, "action_chunk", self._on_chunk, qos.results(100))
        node.create_subscription(ActionChunk, "action_chunk_preview", self.previews.append,
                                 qos.results())
        node.create_subscription(PruneStats, "prune_stats", self._on_stats, qos.results(100))
        node.create_subscription(VlaStatus, "vla_status", self.statuses.append, qos.latched())
        self._clients = {}
        self._last = []  # (publisher, message) of the last observation

    # --- what goes in --------------------------------------------------------------------------

    def start(self, instruction=INSTRUCTION, urdf=URDF):
        """Publish the arm and the task."""
        self.describe(urdf)
        self.instruct(instruction)

    def instruct(self, text):
        self._instruction.publish(String(data=text))

    def describe(self, urdf):
        self._description.publish(String(data=urdf))

    def observe(self, periods=8, joints=None, images=None, **changes):
        """Let time pass, then publish clock, joint states and a picture per camera.

        images: fields of the Image to change by camera, or a message in its place, or None for no
        picture. joints: a JointState in the place of the usual one, or None for the usual one.
        """
        self.now += periods * PERIOD
        images = {**dict.fromkeys(self._cameras, {}), **(images or {})}
        self._last = [(self._joints, joints or self.joints(**changes))]
        for name, change in images.items():
            if change is None:
                continue
            message = change if not isinstance(change, dict) else self.picture(name, **change)
            self._last.append((self._cameras[name], message))
        self.again()
        return self.now

    def again(self):
        """Publish the last observation again."""
        self._clock.publish(Clock(clock=ns_to_stamp(self.now)))
        for publisher, message in self._last:
            publisher.publish(message)

    def joints(self, slide=0.1, turn=0.2, fingers=(0.04, 0.03), slide_speed=0.0):
        """A JointState of now; without velocities if slide_speed is None."""
        message = JointState(name=list(JOINTS), position=[slide, turn, *map(float, fingers)])
        if slide_speed is not None:
            message.velocity = [float(slide_speed), 0.0, 0.0, 0.0]
        message.header.stamp = ns_to_stamp(self.now)
        return message

    def picture(self, camera, **fields):
        """A picture of now, another one at each stamp, with some fields changed."""
        rng = np.random.default_rng([self.now // PERIOD, len(camera)])
        rgb = rng.integers(0, 256, (self.size, self.size, 3), np.uint8)
        message = self._convert(rgb, ns_to_stamp(self.now), f"{camera}_optical_frame")
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    # --- what comes out ------------------------------------------------------------------------

    def _on_chunk(self, message):
        """Keep a chunk, and check what holds for every chunk that is ever published."""
        assert_safe(message)
        (self.holds if message.source == ActionChunk.HOLD else self.chunks).append(message)

    def _on_stats(self, message):
        """Keep stats, and check that the chunk was not stale when it was published."""
        assert -0.1 <= message.observation_age < 0.4
        self.stats.append(message)

    @property
    def status(self):
        return self.statuses[-1] if self.statuses else VlaStatus()

    def until(self, condition, again=None):
        """Spin until the condition holds, publishing the last observation again meanwhile."""
        assert self._ros.spin_until(condition, again=again or self.again), self._story()

    def await_chunk(self, stamp):
        """The chunk of an observation, once its stats are there too."""
        def find(messages):
            return [m for m in messages if stamp_to_ns(m.header.stamp) == stamp]

        self.until(lambda: find(self.chunks) and find(self.stats))
        return find(self.chunks)[-1], find(self.stats)[-1]

    def query(self, **observation):
        """Observe eight periods later; returns the chunk and the stats that follow."""
        return self.await_chunk(self.observe(**observation))

    def await_fault(self, code, *words):
        """Wait until the status reports a fault whose text has these words."""
        def reported():
            status = self.status
            return (status.state == VlaStatus.FAULT and status.fault_code == code
                    and all(word in status.fault_text for word in words))

        self.until(reported)
        return self.status

    def await_state(self, state):
        self.until(lambda: self.statuses and self.status.state == state)
        return self.status

    # --- services ------------------------------------------------------------------------------

    def call(self, kind, service, request):
        """Response of a service."""
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
        client = self._clients[service]
        assert self._ros.spin_until(client.service_is_ready), f"no service {service}"
        future = client.call_async(request)
        assert self._ros.spin_until(future.done), f"no answer from {service}"
        return future.result()

    def set_parameter(self, name, value, node="vla_node"):
        """Set a parameter; returns the SetParametersResult."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return self.call(SetParameters, f"{node}/set_parameters", request).results[0]

    def reset(self):
        return self.call(Trigger, "vla_node/reset_episode", Trigger.Request())

    def clear_fault(self):
        return self.call(Trigger, "vla_node/clear_fault", Trigger.Request())

    def _story(self):
        """What is known when a wait fails."""
        status = self.status
        return (f"status {status.state}, fault {status.fault_code} {status.fault_text!r}, "
                f"{status.images_received} pictures, {status.joint_states_received} joint states, "
                f"{status.queries} queries, {len(self.chunks)} chunks, now {self.now}")


def assert_safe(message):
    """Whether a chunk is finite and in the range of the controller, and a hold does not move."""
    actions = rows(message)
    assert np.isfinite(actions).all() and message.dt > 0
    assert np.abs(actions[:, :6]).max() <= 1.0
    assert ((actions[:, 6] >= 0.0) & (actions[:, 6] <= 1.0)).all()
    if message.source == ActionChunk.HOLD:
        assert not actions[:, :6].any()
        assert (actions[:, 6] == actions[0, 6]).all()


def rows(message):
    """The actions of a chunk message: float64 [horizon, dof]."""
    return np.asarray(message.data).reshape(message.horizon, message.dof)
