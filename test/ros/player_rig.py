"""chunk_player_node in the process of a test, and what surrounds it, over DDS."""
import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from specprune_ros.msg import ActionChunk, VlaStatus
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from specprune_ros.ros import qos
from specprune_ros.ros.chunk_player_node import ChunkPlayerNode
from specprune_ros.ros.conversions import ns_to_stamp
from specprune_ros.sim.tabletop.panda import HOME_POSITIONS
from specprune_ros.sim.tabletop.urdf import robot_description

PERIOD = 50_000_000  # ns
ARM = tuple(f"panda_joint{k}" for k in range(1, 8))
SCALE = [0.05] * 3 + [0.5] * 3 + [1.0]


def action_chunk(stamp, rows=8, **changes):
    """A chunk that moves along x at half speed with an open gripper; some fields changed."""
    actions = np.zeros((rows, 7))
    actions[:, 0], actions[:, 6] = 0.5, 1.0
    message = ActionChunk(
        dt=0.05, horizon=rows, dof=7, data=actions.ravel().tolist(),
        names=["x", "y", "z", "rx", "ry", "rz", "gripper"], action_space=1, unit_scale=SCALE,
        gripper_convention=1, instruction="push")
    message.header.stamp = ns_to_stamp(stamp)
    message.header.frame_id = "panda_link0"
    for name, value in changes.items():
        if name == "frame_id":
            message.header.frame_id = value
        else:
            setattr(message, name, value)
    return message


class PlayerRig:
    """A player with an arm that follows it exactly, unless told otherwise."""

    def __init__(self, ros, output, **parameters):
        self.ros = ros
        self.node = node = ros.node("rig")
        self.now = 1000 * PERIOD
        self.positions = np.array(HOME_POSITIONS)
        self.follows = True
        self.twists, self.joints, self.grippers, self.trajectories = [], [], [], []
        node.create_subscription(TwistStamped, "twist", self.twists.append, 50)
        node.create_subscription(Float64MultiArray, "joint_positions", self._on_positions, 50)
        node.create_subscription(Float64MultiArray, "gripper_positions", self.grippers.append, 50)
        node.create_subscription(JointTrajectory, "joint_trajectory", self._on_trajectory, 50)
        self.clock = node.create_publisher(Clock, "/clock", 10)
        self.chunks = node.create_publisher(ActionChunk, "action_chunk", 10)
        self.status = node.create_publisher(VlaStatus, "vla_status", qos.latched())
        self.states = node.create_publisher(JointState, "joint_states", 10)
        self.description = node.create_publisher(String, "robot_description", qos.latched())
        values = {"use_sim_time": True, "output": output, **parameters}
        self.player = ros.add(ChunkPlayerNode(
            context=ros.context, parameter_overrides=[
                Parameter(name.replace("__", "."), value=v) for name, v in values.items()]))

    @property
    def core(self):
        return self.player.core

    def up(self):
        """Wait until everything is connected and the clock runs."""
        self.description.publish(String(data=robot_description()))
        self.tell()
        self.until(lambda: self.player.get_clock().now().nanoseconds == self.now
                   and self.core._status is not None and not self.core._fault(
                       self.now, self.core._status_at), again=self.again)
        return self

    def tell(self, state=VlaStatus.RUNNING, **fields):
        self.status.publish(VlaStatus(state=state, **fields))

    def again(self):
        self.clock.publish(Clock(clock=ns_to_stamp(self.now)))
        message = JointState(name=[*ARM, "panda_finger_joint1"],
                             position=[*self.positions.tolist(), 0.04])
        message.header.stamp = ns_to_stamp(self.now)
        self.states.publish(message)

    def until(self, condition, again=None):
        assert self.ros.spin_until(condition, again=again, period=0.2, timeout=120), self.story()

    def send(self, message=None, **changes):
        """Publish a chunk of now, and wait until the player has judged it."""
        judged = self.judged
        self.chunks.publish(message or action_chunk(self.now, **changes))
        self.until(lambda: self.judged > judged)

    @property
    def judged(self):
        return self.core.counters.chunks + self.core.counters.rejected

    def tick(self, count=1, status=True, joints=True):
        """Let control periods pass; the player's timer fires once in each."""
        for _ in range(count):
            self.now += PERIOD
            if status:
                self.tell()
            if joints:
                self.again()
            else:
                self.clock.publish(Clock(clock=ns_to_stamp(self.now)))
            before = self.ticks
            self.until(lambda b=before: self.ticks > b,
                       again=lambda: self.clock.publish(Clock(clock=ns_to_stamp(self.now))))
            self.ros.spin_until(lambda: False, timeout=0.02)

    @property
    def ticks(self):
        return self.player.ticks

    def call(self, name):
        client = self.node.create_client(Trigger, f"chunk_player_node/{name}")
        self.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.until(future.done)
        return future.result()

    def story(self):
        return f"{self.core.state}, {self.core.why!r}, {self.core.counters}, now {self.now}"

    def _on_positions(self, message):
        self.joints.append(np.array(message.data))
        if self.follows:
            self.positions = self.joints[-1]

    def _on_trajectory(self, message):
        self.trajectories.append(message)
        if self.follows:
            self.positions = np.array(message.points[0].positions)
