"""chunk_player_node: plays action chunks on an arm's controller, and stops when it should."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from specprune_ros.msg import ActionChunk, VlaStatus

from ..errors import ConfigurationError, SpecpruneError
from . import qos
from .diagnostics import ERROR, OK, WARN, Diagnostics, Report
from .parameters import ParameterServer
from .player_core import REFUSED, PlayerCore, State
from .player_outputs import make_output
from .player_parameters import PlayerSettings
from .spinning import spin_until_signal

REFUSAL_LOG_PAUSE = 5.0  # s between two lines in the log about chunks that are refused
FORWARD_JUMP = 5.0  # s by which the ROS clock may step without a new start


class ChunkPlayerNode(Node):
    """The ROS shell of the player. Its callbacks belong to a single-threaded executor."""

    def __init__(self, **options: object) -> None:
        """Raises ConfigurationError for parameters or a robot description that cannot be used."""
        super().__init__("chunk_player_node", **options)
        self._server = ParameterServer(self, PlayerSettings, self._apply, lambda: None)
        settings = self._server.settings
        settings.check()
        self.output = make_output(self, settings)
        self.core = PlayerCore(settings, self.output, self._report)
        self._subscribe(ActionChunk, "action_chunk", self._on_chunk, qos.results())
        self._subscribe(VlaStatus, "vla_status",
                        lambda msg: self.core.on_status(msg, time.monotonic()), qos.latched())
        self._take_joints(settings)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.create_service(Trigger, "~/clear_fault", self._on_clear)
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=Duration(seconds=FORWARD_JUMP),
                          min_backward=Duration(nanoseconds=-1), on_clock_change=True),
            post_callback=lambda _jump: self.core.reset())
        self.ticks = 0
        self.create_timer(settings["control_period"], self._tick)
        self._diagnostics = Diagnostics(self, "arm", {"motion": self._describe})
        self.get_logger().info(f"output: {settings['output']}")

    def close(self) -> None:
        """Stop what moves; call it before destroy_node()."""
        self.core.stop("the node is shut down", self._now())
        self.output.flush()

    def _take_joints(self, settings: PlayerSettings) -> None:
        """Joint states and the description of the robot, where the output needs them."""
        if not self.output.needs_joints:
            return
        self._subscribe(JointState, "joint_states", self.output.on_joint_states, qos.sensor_data())
        path = settings["robot_description_file"]
        if not path:
            self._subscribe(String, "robot_description",
                            lambda msg: self.output.describe(msg.data), qos.latched())
            return
        try:
            self.output.describe(Path(path).expanduser().read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"robot_description_file {path} cannot be read: {error}") from error

    def _subscribe(self, kind: type, topic: str, callback, profile) -> None:
        self.create_subscription(
            kind, topic, callback, profile,
            qos_overriding_options=QoSOverridingOptions.with_default_policies())

    # --- callbacks -----------------------------------------------------------------------------

    def _apply(self, settings: PlayerSettings) -> None:
        self.core.apply(settings)
        self.output.apply(settings)

    def _on_chunk(self, message: ActionChunk) -> None:
        self.core.on_chunk(message, self._now())

    def _tick(self) -> None:
        self.core.tick(self._now(), time.monotonic())
        self.ticks += 1

    def _on_stop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.core.stop("somebody called ~/stop", self._now())
        response.success, response.message = True, "stopped until ~/clear_fault is called"
        return response

    def _on_clear(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reason = self.core.clear_fault()
        response.success = True
        response.message = f"cleared: {reason}" if reason else "no fault was latched"
        return response

    def _now(self) -> int:
        return self.get_clock().now().nanoseconds

    # --- what it tells -------------------------------------------------------------------------

    def _report(self, text: str) -> None:
        if text.startswith((State.MOVING.value, State.IDLE.value)):
            self.get_logger().info(text)
        elif text.startswith(REFUSED):  # each may have another reason
            self.get_logger().warning(text, throttle_duration_sec=REFUSAL_LOG_PAUSE)
        else:
            self.get_logger().warning(text)

    def _describe(self) -> Report:
        core = self.core
        level = {State.MOVING: OK, State.IDLE: OK, State.HOLDING: WARN}.get(core.state, WARN)
        if core.latch.reason:
            level = ERROR
        values = {"output": core.settings["output"], **vars(core.counters),
                  "last rejection": core.last_rejection,
                  "parameter revision": core.settings.revision}
        return Report(level, core.state.value + (f": {core.why}" if core.why else ""), values)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted. Returns the exit status."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        node = ChunkPlayerNode()
    except (ParameterException, SpecpruneError) as error:
        sys.stderr.write(f"chunk_player_node: {error}\n")
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        spin_until_signal(executor)
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
