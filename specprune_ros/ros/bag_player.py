"""Sends recorded inputs to a vla_node in lock-step and collects what it answers.

Each input is sent, and the node is asked (``~/settle``) until it has taken it and has nothing left
to do; only then does time go on. So the result depends neither on the speed of the machine nor on
the order in which DDS delivers.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping

import rclpy
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from specprune_ros.msg import ActionChunk, PruneStats, VlaStatus

from ..errors import RecordingError
from . import qos
from .conversions import ns_to_stamp

_KINDS = {f"{package}/msg/{kind.__name__}": kind for package, kind in (
    ("sensor_msgs", Image), ("sensor_msgs", CompressedImage), ("sensor_msgs", JointState),
    ("std_msgs", String))}
_DEPTH = 32  # of which one is on its way at a time
_SPIN_S = 0.05
_RESEND_S = 0.05  # the clock is best effort at the node: it is sent again until it has arrived


class ReplayFailed(RecordingError):
    """The node does not follow the replay: it died, has a fault, or does not answer in time."""


class BagPlayer:
    """A node that plays to the vla_node of its domain. Use it as a context manager.

    chunks, stats: everything the node has answered, holds apart. faults: (ns of simulated time,
    text) at each new text of VlaStatus, waiting for inputs included. sent: messages per topic.
    progress: the node's counters.
    """

    def __init__(self, inputs: Mapping[str, str], domain_id: int, check: Callable[[], None],
                 patience: float, node_name: str = "vla_node") -> None:
        """Create the end points.

        inputs: the node's topic -> message type. check: called while waiting; it raises when the
        node's process has ended. patience: wall seconds that the node may take over one input.
        """
        self.chunks: list[ActionChunk] = []
        self.stats: list[PruneStats] = []
        self.faults: list[tuple[int, str]] = []
        self.sent: dict[str, int] = dict.fromkeys(inputs, 0)
        self.now = 0
        self.progress: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self.status: VlaStatus | None = None
        self._check, self._patience, self._name = check, patience, node_name
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=domain_id)
        self._node = node = rclpy.create_node("bag_player", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        reliable = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._publishers = {
            topic: node.create_publisher(_KINDS[kind], topic,
                                         qos.latched() if _KINDS[kind] is String else reliable)
            for topic, kind in inputs.items()}
        many = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        for topic in ("action_chunk", "action_chunk_preview"):  # the latter with dry_run
            node.create_subscription(ActionChunk, topic, self._on_chunk, many)
        node.create_subscription(PruneStats, "prune_stats", self.stats.append, many)
        node.create_subscription(VlaStatus, "vla_status", self._on_status, qos.latched())
        # Last: an answer of theirs means that the node knows the end points above.
        self._settle = node.create_client(Trigger, f"{node_name}/settle")
        self._reset = node.create_client(Trigger, f"{node_name}/reset_episode")

    def __enter__(self) -> BagPlayer:  # noqa: PYI034 (Self: Python 3.11)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    # --- what a replay does ----------------------------------------------------------------------

    def wait_until_active(self, patience: float) -> None:
        """Wait until the node is active and every input has its subscription.

        Raises:
            ReplayFailed: it has a fault, or is not there in time.
        """
        def active() -> bool:
            status = self.status
            if status is not None and status.state == VlaStatus.FAULT:
                raise ReplayFailed(f"{self._name} reports a fault: {status.fault_text}")
            return (status is not None and status.state in (VlaStatus.WAITING, VlaStatus.RUNNING)
                    and self._settle.service_is_ready() and self._reset.service_is_ready())

        self._wait(active, patience, "it is not active")
        self._wait(lambda: all(p.get_subscription_count()
                               for p in (self._clock, *self._publishers.values())),
                   patience, "it does not subscribe to "
                   f"{', '.join(t for t, p in self._publishers.items() if not _matched(p))}")
        self._ask()
        self._before = self.progress
        self.settle()

    def set_time(self, ns: int) -> None:
        """Set simulated time and wait until the node knows it."""
        self.now = ns
        message = Clock(clock=ns_to_stamp(ns))
        due = [0.0]

        def arrived() -> bool:
            if time.monotonic() >= due[0]:
                self._clock.publish(message)
                due[0] = time.monotonic() + _RESEND_S
            return self._ask() and self.progress["now"] == ns

        self._wait(arrived, self._patience, f"it did not take /clock at {ns / 1e9:.3f} s", spin=0.0)
        self._take_results()

    def deliver(self, topic: str, raw: bytes) -> None:
        """Send a message (CDR) and wait until the node has dealt with it."""
        self._publishers[topic].publish(raw)
        self.sent[topic] += 1
        if topic in ("instruction", "robot_description"):
            self.settle()  # there is no counter of these: once more, see below
        self.settle(f"{topic} at {self.now / 1e9:.3f} s")

    def instruct(self, text: str) -> None:
        """Give the node a task that was not recorded."""
        self.deliver("instruction", serialize_message(String(data=text)))

    def reset_episode(self) -> None:
        """Call the node's service, as was done when the bag was recorded."""
        self._call(self._reset, Trigger.Request())
        self.settle()

    def settle(self, what: str = "what it was sent") -> None:
        """Wait until the node has taken all that was sent, and has nothing left to do.

        Raises:
            ReplayFailed: it did not within ``patience`` seconds.
        """
        images = sum(count for topic, count in self.sent.items() if topic.startswith("camera/"))
        joints = self.sent.get("joint_states", 0)

        def arrived() -> bool:
            # An answer may overtake a message that is on its way: hence the counters.
            return (self._ask() and self._since("images_received") >= images
                    and self._since("joint_states_received") >= joints)

        self._wait(arrived, self._patience, f"it did not deal with {what}", spin=0.0)
        self._take_results()

    def parameters(self) -> dict[str, object]:
        """Values of the node's parameters that are in force."""
        names = self._once(ListParameters, "list_parameters", ListParameters.Request())
        names = sorted(names.result.names)
        values = self._once(GetParameters, "get_parameters", GetParameters.Request(names=names))
        return {name: parameter_value_to_python(value)
                for name, value in zip(names, values.values)}

    # --- parts ---------------------------------------------------------------------------------

    def _take_results(self) -> None:
        """Wait for the messages of the chunks that the node has counted."""
        count = self._since("chunks")
        self._wait(lambda: len(self.chunks) >= count and len(self.stats) >= count,
                   self._patience, f"{count} chunks were sent, {len(self.chunks)} arrived")

    def _since(self, counter: str) -> int:
        """What a counter of the node has gained in this replay."""
        return self.progress[counter] - self._before[counter]

    def _ask(self) -> bool:
        """Whether the node has settled; it waits a moment for that itself."""
        answer = self._call(self._settle, Trigger.Request())
        self.progress = json.loads(answer.message)
        return answer.success

    def _once(self, kind: type, service: str, request: object):
        client = self._node.create_client(kind, f"{self._name}/{service}")
        try:
            self._wait(client.service_is_ready, self._patience, f"it has no service {service}")
            return self._call(client, request)
        finally:
            self._node.destroy_client(client)

    def _call(self, client, request: object):
        future = client.call_async(request)
        self._wait(future.done, self._patience, f"it does not answer {client.srv_name}")
        return future.result()

    def _wait(self, condition: Callable[[], bool], patience: float, otherwise: str,
              spin: float = _SPIN_S) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            self._check()
            if time.monotonic() > deadline:
                status = self.status
                says = f"; it says: {status.fault_text}" if status and status.fault_text else ""
                raise ReplayFailed(f"{self._name}: {otherwise} within {patience:.0f} s{says}")
            self._executor.spin_once(timeout_sec=spin)

    def _on_chunk(self, message: ActionChunk) -> None:
        if message.source != ActionChunk.HOLD:
            self.chunks.append(message)

    def _on_status(self, message: VlaStatus) -> None:
        text = message.fault_text
        # What it waits for before time begins is no news.
        if text and self.now and (not self.faults or self.faults[-1][1] != text):
            self.faults.append((self.now, text))
        self.status = message


def _matched(publisher) -> bool:
    return publisher.get_subscription_count() > 0
