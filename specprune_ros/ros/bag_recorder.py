"""Records what vla_node reads and publishes, undecoded, and counts what was lost on the way."""
from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import rclpy
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock

from specprune_ros.msg import SimStatus, VlaStatus

from .conversions import NANOSECONDS, stamp_to_ns

LOOK_PERIOD = 0.2  # s between two looks at the graph
_NODE_PATIENCE = 3.0  # s until topics are taken by their names, as there is no vla_node
_DEPTH = 500  # messages per topic that wait for the disk
_DRAIN_S = 2.0  # at most, to write what has arrived when the recording is stopped
#: Recorded if they are there, whoever publishes them; relative names.
_ALWAYS = ("/clock", "/parameter_events", "sim_status")
_NEVER = ("/rosout",)
#: Of the node's, only if asked for: what it draws when somebody subscribes.
_DRAWN = re.compile(r"/(camera/[A-Za-z]\w*/kept_patches|tool_path)$")
#: Without a vla_node its inputs are found by these names.
_INPUTS = re.compile(r"(camera/[A-Za-z]\w*/image_raw(/compressed)?|joint_states|robot_description"
                     r"|instruction|action_chunk(_preview)?|prune_stats|vla_status)")


@dataclass(frozen=True)
class TopicFacts:
    """A topic as its publishers offer it."""

    name: str
    kind: str  # "sensor_msgs/msg/Image"
    reliable: bool
    latched: bool  # transient local


class Sink(Protocol):
    """What messages are written to."""

    def write(self, topic: TopicFacts, time_ns: int, raw: bytes) -> bool: ...  # False: refused


class BagRecorder:
    """Subscribes to the topics of a vla_node as they appear. Use it as a context manager.

    counts, lost: messages per topic; lost ones show in the numbers that publishers give theirs.
    refused: topic -> why it is not recorded. parameters: of the node, once it has told them.
    """

    def __init__(self, sink: Sink, node: str, namespace: str, extra: Collection[str] = (),
                 exclude: Collection[str] = ()) -> None:
        """node: name of the vla_node, in ``namespace``. extra, exclude: topics, full names."""
        self.counts: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self.parameters: dict[str, object] = {}
        self.node_seen = False
        self._first: tuple[float, int | None] | None = None  # monotonic and simulated time, see age
        self._time: int | None = None  # simulated, ns
        self._sink, self._name = sink, node
        self._namespace = f"/{namespace.strip('/')}" if namespace.strip("/") else "/"
        self._extra, self._exclude = set(extra), {*exclude, *_NEVER}
        self._numbers: dict[tuple[str, bytes], int] = {}
        self._newest = 0  # ns, when the last message arrived
        self._sim_episodes: int | None = None  # None: there is no simulator
        self._node_episodes = 0
        self._status: VlaStatus | None = None  # the first of the running episode
        self._began = time.monotonic()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node("bag_recorder", namespace=self._namespace,
                                       context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._node.create_timer(LOOK_PERIOD, self._look)
        self._lists = self._node.create_client(ListParameters, f"{node}/list_parameters")
        self._gets = self._node.create_client(GetParameters, f"{node}/get_parameters")
        self._asked = False
        self._closed = False

    def __enter__(self) -> BagRecorder:  # noqa: PYI034 (Self: Python 3.11)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    @property
    def episodes(self) -> int:
        """Episodes that have ended: the simulator's, or else those of vla_node with a query."""
        return self._node_episodes if self._sim_episodes is None else self._sim_episodes

    @property
    def age(self) -> float | None:
        """Seconds since the first message, latched ones and those of no input or output apart.

        On /clock where there is one. None before it.
        """
        if self._first is None:
            return None
        wall, simulated = self._first
        if self._time is None or simulated is None:
            return time.monotonic() - wall
        return (self._time - simulated) / NANOSECONDS

    @property
    def total(self) -> int:
        """Messages recorded."""
        return sum(self.counts.values())

    def spin(self, seconds: float) -> None:
        """Record for a moment (wall seconds)."""
        self._executor.spin_once(timeout_sec=seconds)

    def drain(self) -> None:
        """Record what has arrived by now, but not what comes after; wait for the parameters."""
        deadline = time.monotonic() + _DRAIN_S
        until = time.time_ns()
        quiet = 0  # spins in a row without a message
        while quiet < 3 and time.monotonic() < deadline and self._newest < until:
            before = self.total
            self._executor.spin_once(timeout_sec=0.01)
            quiet = 0 if self.total > before else quiet + 1
        self._closed = True
        while self.node_seen and not self.parameters and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)

    # --- topics ---------------------------------------------------------------------------------

    def _look(self) -> None:
        """Subscribe to what has appeared."""
        kinds = {name: types[0] for name, types in self._node.get_topic_names_and_types() if types}
        wanted = {*self._of_the_node(), *self._extra,
                  *(self._full(name) for name in _ALWAYS)} - self._exclude
        for name in sorted(wanted & set(kinds) - set(self.counts) - set(self.refused)):
            self._subscribe(name, kinds[name])
        self._ask_parameters()

    def _of_the_node(self) -> set[str]:
        try:
            ends = [*self._node.get_subscriber_names_and_types_by_node(self._name, self._namespace),
                    *self._node.get_publisher_names_and_types_by_node(self._name, self._namespace)]
        except Exception:  # NodeNameNonExistentError is not in the same module everywhere
            ends = []
        if ends:
            self.node_seen = True
            return {name for name, _ in ends if not _DRAWN.search(name)}
        if self.node_seen or time.monotonic() - self._began < _NODE_PATIENCE:
            return set()
        prefix = self._full("")
        return {name for name, _ in self._node.get_topic_names_and_types()
                if name.startswith(prefix) and _INPUTS.fullmatch(name[len(prefix):])}

    def _full(self, name: str) -> str:
        return name if name.startswith("/") else f"{self._namespace.rstrip('/')}/{name}"

    def _subscribe(self, name: str, kind: str) -> None:
        offers = self._node.get_publishers_info_by_topic(name)
        if not offers:
            return  # nobody publishes yet, and the offers decide about the request
        try:
            package, _, message = kind.split("/")
            cls = getattr(importlib.import_module(f"{package}.msg"), message)
        except Exception as error:
            self.refused[name] = f"{kind} cannot be imported ({error}); source its workspace"
            return
        # As much as every publisher offers.
        reliable = all(o.qos_profile.reliability == ReliabilityPolicy.RELIABLE for o in offers)
        latched = all(o.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
        profile = QoSProfile(
            depth=_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=(DurabilityPolicy.TRANSIENT_LOCAL if latched
                        else DurabilityPolicy.VOLATILE))
        facts = TopicFacts(name, kind, reliable, latched)
        self.counts[name] = 0
        self._node.create_subscription(cls, name, self._callback(facts), profile, raw=True)

    # --- messages -------------------------------------------------------------------------------

    def _callback(self, facts: TopicFacts) -> Callable[[bytes, dict], None]:
        look = {"specprune_ros/msg/SimStatus": self._on_sim,
                "specprune_ros/msg/VlaStatus": self._on_status,
                "rosgraph_msgs/msg/Clock": self._on_clock}.get(facts.kind)
        return partial(self._record, facts, look)

    def _record(self, facts: TopicFacts, look: Callable[[bytes], None] | None, raw: bytes,
                info: dict) -> None:
        if self._closed:
            return
        # When it arrived, not when it is written: the order between topics depends on it.
        self._newest = info.get("received_timestamp") or time.time_ns()
        if self._first is None and not facts.latched and facts.name not in _ALWAYS:
            self._first = (time.monotonic(), self._time)
        self._note_losses(facts.name, info)
        self.counts[facts.name] += self._sink.write(facts, self._newest, raw)
        if look is not None:
            look(raw)

    def _note_losses(self, name: str, info: dict) -> None:
        number = info.get("publication_sequence_number")
        publisher = info.get("publisher_gid")
        if number is None:
            return
        # Without the publisher's id (before Kilted) the numbers of several cannot be told apart.
        if publisher is None and self._node.count_publishers(name) != 1:
            return
        key = (name, bytes(publisher["data"]) if publisher else b"")
        before = self._numbers.get(key)
        self._numbers[key] = max(number, before or 0)
        if before is not None and number > before + 1:
            self.lost[name] = self.lost.get(name, 0) + number - before - 1

    def _on_sim(self, raw: bytes) -> None:
        self._sim_episodes = (self._sim_episodes or 0) + deserialize_message(raw, SimStatus).done

    def _on_clock(self, raw: bytes) -> None:
        self._time = stamp_to_ns(deserialize_message(raw, Clock).clock)
        if self._first is not None and self._first[1] is None:
            self._first = (self._first[0], self._time)

    def _on_status(self, raw: bytes) -> None:
        status, first = deserialize_message(raw, VlaStatus), self._status
        if first is None or status.episode != first.episode:
            self._node_episodes += first is not None and status.queries > first.queries
            self._status = status

    # --- parameters -----------------------------------------------------------------------------

    def _ask_parameters(self) -> None:
        if self._asked or not self._gets.service_is_ready() or not self._lists.service_is_ready():
            return
        self._asked = True
        self._lists.call_async(ListParameters.Request()).add_done_callback(self._on_list)

    def _on_list(self, future) -> None:
        names = sorted(future.result().result.names)
        self._gets.call_async(GetParameters.Request(names=names)).add_done_callback(
            partial(self._on_values, names))

    def _on_values(self, names: list[str], future) -> None:
        self.parameters = {name: parameter_value_to_python(value)
                           for name, value in zip(names, future.result().values)}
