"""vla_node: a lifecycle node that turns pictures, joint states and a task into action chunks.

Configure loads the policy and opens the topics, activate starts queries, cleanup frees the memory.
"""
from __future__ import annotations

import json
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial

import rclpy
from rclpy.clock import Clock, ClockChange, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from specprune_ros.msg import VlaStatus
from specprune_ros.srv import SetInstruction

from ..errors import CheckpointError, ConfigurationError, SpecpruneError
from . import qos
from .diagnostics import Diagnostics
from .engine import Engine
from .faults import FaultCode
from .loading import (
    RobotDescriptionError,
    describe_from_file,
    fingerprint,
    free_memory,
    load,
)
from .messages import Hold, Published
from .parameters import ParameterServer
from .planner import JOINT_STATES, camera_input
from .query import Policy
from .resets import reset_answer
from .responder import Callbacks
from .spinning import spin_until_signal
from .status import PERIOD as STATUS_PERIOD
from .status import StatusReporter
from .vla_diagnostics import VlaDiagnostics
from .vla_outputs import VlaOutputs
from .vla_parameters import VlaSettings

STOP_TIMEOUT = 30.0  # s that a running query may take to end when the node is cleaned up
SETTLE_TIMEOUT = 0.1  # s that ~/settle waits; the executor's thread does nothing else meanwhile
FORWARD_JUMP = 10.0  # s by which the ROS clock may step without a new episode
HOLD_LOG_PAUSE = 5.0  # s between two lines in the log that say so
_OTHER_CLOCK = (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED)
WATCH_PERIOD = 0.05  # s of wall time between two looks at what is overdue


PolicyLoader = Callable[[VlaSettings, Callable[[str], None]], Policy]


class VlaNode(LifecycleNode):
    """The ROS shell of the policy: parameters, topics, transitions, status.

    Its callbacks belong to a single-threaded executor.
    """

    def __init__(self, load_policy: PolicyLoader = load, **kwargs) -> None:
        """``load_policy`` makes the policy, as loading.load(); ``kwargs`` as for rclpy's Node."""
        super().__init__("vla_node", **kwargs)
        self._load_policy = load_policy
        self._engine_lock = threading.Condition()
        self._engine: Engine | None = None
        self._endpoints: list[Callable[[], object]] = []  # what undoes the opening of each
        self._parameter_server = ParameterServer(
            self, VlaSettings, self._apply, lambda: self._reporter.publish_changes())
        self._reporter = StatusReporter(self, self._engine_lock, self._settings)
        self._diagnostics = VlaDiagnostics(
            self._engine_lock, lambda: self._engine, self._settings, self._now)
        self._diagnostic_updater = Diagnostics(self, "policy", self._diagnostics.tasks())
        # Until the first success; after a failure only when something has changed.
        self._autostart = self._settings()["autostart"]
        self._failed_with: tuple | None = None  # fingerprint at the last failure
        self._seen: tuple | None = None  # fingerprint at the last look
        self._warned: set[str] = set()  # what the log has of the policy
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=Duration(seconds=FORWARD_JUMP),
                          min_backward=Duration(nanoseconds=-1), on_clock_change=True),
            post_callback=self._on_time_jump)
        # Wall time: a simulated clock that stands still must not hide the status.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(STATUS_PERIOD, self._tick, clock=steady)
        self.create_timer(WATCH_PERIOD, self._watch, clock=steady)
        self._reporter.publish()

    # --- transitions ---------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the policy and open the topics; on failure the status says what to mend."""
        settings = self._settings()
        files = fingerprint(settings)
        self.get_logger().info("loading the policy")
        try:
            settings.check()
            with self._reporter.meanwhile():
                policy = self._load_policy(settings, self._warn_once)
            self._outputs = VlaOutputs(self, settings["cameras"], self._dry_run)
            self._endpoints.append(self._outputs.close)
            self._engine = Engine(policy, settings, self._reporter.faults, self._engine_lock,
                                  self._engine_callbacks())
            if settings["robot_description_file"]:
                describe_from_file(self._engine.planner.arm, settings)
            self._open(settings)
            self._diagnostics.restart()
            if settings["instruction"]:
                self._engine.on_instruction(settings["instruction"])
            self._reporter.engine = self._engine
        except Exception as error:  # whatever it is, the node stays up and says so
            self._failed_with = files
            self._release()
            self._report_configuration(error)
            return TransitionCallbackReturn.FAILURE
        self._autostart = False
        self._parameter_server.configured = True
        self._reporter.faults.clear()
        self._reporter.faults.restart_count()
        self._reporter.enter(VlaStatus.INACTIVE)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to query and to publish."""
        result = super().on_activate(state)
        self._engine.activate()
        self._reporter.enter(VlaStatus.RUNNING)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop to publish, with a hold chunk as the last; what a running query gives is dropped."""
        self._engine.deactivate()
        self._reporter.enter(VlaStatus.INACTIVE)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the topics and free the policy's memory."""
        self._release()
        self._reporter.faults.clear()
        self._reporter.enter(VlaStatus.UNCONFIGURED)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup, for good."""
        self._autostart = False
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Recover from an error in a transition: the node can be configured again."""
        return self.on_cleanup(state)

    def close(self) -> None:
        """End the inference thread; call it before destroy_node()."""
        self._autostart = False
        self._release()

    def _open(self, settings: VlaSettings) -> None:
        """Open the topics and services that belong to a policy."""
        engine = self._engine
        compressed = settings["image_transport"] == "compressed"
        for camera in settings["cameras"]:
            topic = f"{camera_input(camera)}/image_raw" + ("/compressed" if compressed else "")
            self._subscribe(CompressedImage if compressed else Image, topic,
                            partial(engine.on_image, camera), qos.sensor_data())
        self._subscribe(JointState, JOINT_STATES, engine.on_joint_states, qos.sensor_data())
        self._subscribe(String, "instruction", self._on_instruction, qos.latched())
        if not settings["robot_description_file"]:
            self._subscribe(String, "robot_description",
                            lambda msg: engine.on_description(msg.data), qos.latched())
        for name, callback in (("~/reset_episode", self._on_reset), ("~/settle", self._on_settle),
                               ("~/clear_fault", self._on_clear)):
            service = self.create_service(Trigger, name, callback)
            self._endpoints.append(partial(self.destroy_service, service))
        service = self.create_service(SetInstruction, "~/set_instruction", self._on_set_instruction)
        self._endpoints.append(partial(self.destroy_service, service))

    def _subscribe(self, kind: type, topic: str, callback: Callable, profile) -> None:
        subscription = self.create_subscription(
            kind, topic, callback, profile,
            qos_overriding_options=QoSOverridingOptions.with_default_policies())
        self._endpoints.append(partial(self.destroy_subscription, subscription))

    def _release(self) -> None:
        """End the thread, close the topics, drop the policy. Does no harm if done twice."""
        self._parameter_server.configured = False
        self._reporter.engine = None
        if self._engine is not None and not self._engine.stop(STOP_TIMEOUT):
            self.get_logger().error(f"the running query did not end within {STOP_TIMEOUT:.0f} s")
        self._engine = None
        while self._endpoints:
            self._endpoints.pop()()
        free_memory()

    def _warn_once(self, text: str) -> None:
        """Log a warning about the policy, unless the log has it: autostart tries again."""
        if text not in self._warned:
            self._warned.add(text)
            self.get_logger().warning(text)

    def _report_configuration(self, error: Exception) -> None:
        code = FaultCode.CONFIGURATION
        if isinstance(error, CheckpointError):
            code = FaultCode.CHECKPOINT
        elif isinstance(error, RobotDescriptionError):
            code = FaultCode.ROBOT_DESCRIPTION
        elif not isinstance(error, SpecpruneError):
            self.get_logger().error(traceback.format_exc())
        text = str(error) if isinstance(error, SpecpruneError) else (
            f"{type(error).__name__}: {error}")
        with self._engine_lock:
            if not any(fault.text == text for fault in self._reporter.faults.present()):
                self._reporter.faults.clear()  # another reason than last time: say so
            self._reporter.faults.raise_fault(code, "configuring", text)

    # --- callbacks -----------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._autostart and self._may_succeed():
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        self._reporter.publish()

    def _watch(self) -> None:
        if self._engine is not None:
            self._engine.wake()

    def _may_succeed(self) -> bool:
        """Whether configuring was not tried yet, or something has changed since it failed."""
        if self._failed_with is None:
            return True
        before, self._seen = self._seen, fingerprint(self._settings())
        # Files that still change are being copied: wait until they do not.
        return self._seen == before != self._failed_with

    def _apply(self, settings: VlaSettings) -> None:
        text = settings["instruction"]
        other = text != self._settings()["instruction"]
        if other and not text.strip():
            raise ConfigurationError("the instruction is empty: give the task in natural language")
        if self._engine is not None:
            self._engine.apply(settings)
            if other:
                self._engine.on_instruction(text)

    def _on_instruction(self, message: String) -> None:
        self._engine.on_instruction(message.data)
        if message.data.strip():
            self._parameter_server.note("instruction", message.data.strip())

    def _on_set_instruction(self, request: SetInstruction.Request,
                            response: SetInstruction.Response) -> SetInstruction.Response:
        text = request.instruction.strip()
        response.success = bool(text)
        if text:
            self._on_instruction(String(data=text))
            response.message = text
        else:  # unlike the topic, it leaves the task as it is: the caller is told
            response.message = "the instruction is empty: give the task in natural language"
        return response

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        episode, start = self._engine.reset_episode()
        response.message = reset_answer(episode, start)
        response.success = True
        return response

    def _on_settle(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """For replays in lock-step: what has come in, and whether it has been dealt with."""
        response.success = self._engine.settled(SETTLE_TIMEOUT)
        response.message = json.dumps({"now": self._now(), **self._engine.progress()})
        return response

    def _on_clear(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reason = self._engine.clear_fault()
        response.message = f"cleared: {reason}" if reason else "no fault was latched"
        response.success = True
        return response

    def _on_time_jump(self, jump: TimeJump) -> None:
        backward = jump.delta.nanoseconds < 0
        changed = jump.clock_change in _OTHER_CLOCK
        if self._engine is not None and self._engine.time_jumped(backward, changed):
            self.get_logger().info("the clock was set: a new episode begins")

    def _settings(self) -> VlaSettings:
        return self._parameter_server.settings

    def _now(self) -> int:
        return self.get_clock().now().nanoseconds

    def _dry_run(self) -> bool:
        return self._engine.planner.settings["dry_run"]

    def _engine_callbacks(self) -> Callbacks:
        log, outputs = self.get_logger(), self._outputs

        def stats(published: Published) -> None:
            self._diagnostics.note(published)
            outputs.publish_stats(published)

        def hold(hold: Hold) -> None:
            outputs.hold(hold)
            log.warning(f"holding: {hold.why}", throttle_duration_sec=HOLD_LOG_PAUSE)

        return Callbacks(
            now=self._now, publish=outputs.publish, publish_stats=stats, hold=hold,
            changed=self._reporter.publish_changes, warn=lambda text: log.warning(text),
            log_error=lambda text: log.error(text))


def main(args: Sequence[str] | None = None, load_policy: PolicyLoader = load) -> int:
    """Run the node until it is interrupted. Returns the exit status."""
    # ROS's own handler would shut the context down before the node can publish a last hold chunk.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = VlaNode(load_policy)
    except ParameterException as error:
        sys.stderr.write(f"vla_node: a parameter cannot be used: {error}\n")
        rclpy.try_shutdown()
        return 2
    return spin(node)


def spin(node: VlaNode) -> int:
    """Spin a node in one thread until it is interrupted, then close it."""
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
