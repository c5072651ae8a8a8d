"""The node behind ``specprune view``: listens to a vla_node and a simulator, and passes on what
somebody sets on the page."""
from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import rclpy
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from std_srvs.srv import Trigger

from specprune_ros.msg import PruneStats, SimStatus, VlaStatus

from ..errors import SpecpruneError
from . import qos
from .method_parameters import METHOD_PARAMETERS
from .view_pictures import Picture, Pictures
from .view_state import condition, sim_values, stats_values, status_values

HISTORY = 240  # queries in the charts
_LOOK_S = 0.25  # wall s between two looks at the graph, the parameters and the viewers
_ASK_S = 0.5  # wall s between two questions about the parameters, at least
_ASK_AGAIN_S = 3.0  # wall s after which parameters are asked for again though nothing changed
#: Parameters that are shown or needed.
_ASKED = (*(spec.name for spec in METHOD_PARAMETERS), "instruction", "cameras", "image_transport")


class ViewError(SpecpruneError):
    """The node cannot be asked: it is not there, or does not answer."""


class ViewLink:
    """A node in a context and a thread of its own; its methods may be called from any thread.

    Use it as a context manager.
    """

    def __init__(self, node: str = "vla_node", namespace: str = "",
                 domain: int | None = None, absent: str = "") -> None:
        """node: name of the vla_node, in ``namespace``. domain: None for ROS_DOMAIN_ID.

        absent: what to say where no node was heard; empty for the remedies.
        """
        self._lock = threading.Lock()
        self._status: tuple[dict[str, Any], float] | None = None  # values, time.monotonic
        self._sim: tuple[dict[str, Any], float] | None = None
        self._points: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._point_number = 0
        self._last_query: float | None = None
        self._pictures: dict[tuple[str, str], Picture] = {}
        self._values: dict[str, object] = {}
        self._asked_at, self._asked_for = 0.0, None  # when, and at which revision
        self._question = None  # that call, answered or not
        self._failure: Exception | None = None  # that ended the thread
        self._publishers = 0
        self._viewers = 0
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self._absent = absent or (
            f"No {node} in ROS domain {self._context.get_domain_id()}. Start one (ros2 launch "
            "specprune_ros vla.launch.py), or set ROS_DOMAIN_ID or --namespace to where it runs.")
        self._node = rclpy.create_node("specprune_view", context=self._context,
                                       namespace=f"/{namespace.strip('/')}"
                                       if namespace.strip("/") else "/")
        self._name = node
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._subscribe()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="view link", daemon=True)
        self._thread.start()

    def _subscribe(self) -> None:
        subscribe, client, name = (self._node.create_subscription, self._node.create_client,
                                   self._name)
        subscribe(VlaStatus, "vla_status", self._on_status, qos.latched())
        subscribe(PruneStats, "prune_stats", self._on_stats, qos.results(50))
        subscribe(SimStatus, "sim_status", self._on_sim, qos.results(50))
        self._shown = Pictures(self._node, self._on_picture)
        self._gets = client(GetParameters, f"{name}/get_parameters")
        self._sets = client(SetParametersAtomically, f"{name}/set_parameters_atomically")
        self._triggers = {service: client(Trigger, f"{name}/{service}")
                          for service in ("reset_episode", "clear_fault")}
        # Wall time: a simulated clock that stands still must not stop the page.
        self._node.create_timer(_LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def __enter__(self) -> ViewLink:  # noqa: PYI034 (Self: Python 3.11)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and leave the domain."""
        self._stopping.set()
        self._thread.join(10.0)
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def check(self) -> None:
        """Raise ViewError where the thread has ended by an error: nothing new would be shown."""
        if self._failure is not None:
            raise ViewError("the page hears no more of the node: "
                            f"{type(self._failure).__name__}: {self._failure}") from self._failure

    # ---- what is shown -------------------------------------------------------------------------

    def snapshot(self, since: int = 0) -> dict[str, Any]:
        """All there is to show, as JSON takes it; of the charts' points those after ``since``."""
        with self._lock:
            now = time.monotonic()
            status, status_age = _aged(self._status, now)
            sim, sim_age = _aged(self._sim, now)
            return {
                "condition": condition(status, status_age, self._publishers, self._absent),
                "status": status, "status_age": status_age,
                "sim": sim, "sim_age": sim_age,
                "query_age": None if self._last_query is None else now - self._last_query,
                "parameters": dict(self._values),
                "points": [point for point in self._points if point["n"] > since],
                "pictures": {camera: {which: self._picture_facts((camera, which), now)
                                      for which in ("camera", "kept")}
                             for camera in self._cameras()},
            }

    def picture(self, camera: str, which: str) -> Picture | None:
        """The newest picture: ``which`` is camera or kept."""
        with self._lock:
            return self._pictures.get((camera, which))

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """While somebody looks: only then cameras are read and overlays drawn."""
        with self._lock:
            self._viewers += 1
        try:
            yield
        finally:
            with self._lock:
                self._viewers -= 1

    def _picture_facts(self, key: tuple[str, str], now: float) -> dict[str, Any] | None:
        picture = self._pictures.get(key)
        if picture is None:
            return None
        return {"n": picture.number, "age": now - picture.at, "trouble": picture.trouble}

    def _cameras(self) -> list[str]:
        return [str(name) for name in self._values.get("cameras", ())]

    # ---- what is set ---------------------------------------------------------------------------

    def set_parameters(self, values: Mapping[str, object]
                       ) -> concurrent.futures.Future[tuple[bool, str]]:
        """Set parameters of the node together: whether they were taken, or the node's reason."""
        request = SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])

        def answer(response: SetParametersAtomically.Response) -> tuple[bool, str]:
            self._ask()  # the page shows what is in force at once
            return response.result.successful, response.result.reason

        return self._request(self._sets, request, answer)

    def trigger(self, service: str) -> concurrent.futures.Future[tuple[bool, str]]:
        """Call reset_episode or clear_fault: success, and what the node says."""
        return self._request(self._triggers[service], Trigger.Request(),
                             lambda response: (response.success, response.message))

    def _request(self, client, request, answer: Callable[[Any], tuple[bool, str]]
                 ) -> concurrent.futures.Future[tuple[bool, str]]:
        """Call a service in the executor's thread, to which all of rclpy's objects belong.

        By callbacks: rclpy's executor runs a coroutine that awaits again and again, as fast as it
        can. ``answer`` makes the result of the response. Where whoever asked gives up, the result
        being cancelled, the call is forgotten.
        """
        result: concurrent.futures.Future = concurrent.futures.Future()

        def settle(response) -> None:
            found = answer(response.result())
            if result.set_running_or_notify_cancel():
                result.set_result(found)

        def send() -> None:
            if result.cancelled():
                return  # nothing is set that nobody waits for any more
            if not client.service_is_ready():
                if result.set_running_or_notify_cancel():
                    result.set_exception(ViewError(
                        f"{self._name} has no service {client.srv_name} at present: is it "
                        "running and configured?"))
                return
            call = client.call_async(request)
            call.add_done_callback(settle)
            result.add_done_callback(
                lambda done: client.remove_pending_request(call) if done.cancelled() else None)

        self._executor.create_task(send)
        return result

    # ---- in the executor's thread --------------------------------------------------------------

    def _spin(self) -> None:
        try:
            while not self._stopping.is_set():
                self._executor.spin_once(timeout_sec=0.1)
        except ExternalShutdownException:
            pass
        except Exception as error:
            self._failure = error

    def _look(self) -> None:
        publishers = self._node.count_publishers(self._node.resolve_topic_name("vla_status"))
        with self._lock:
            self._publishers = publishers
            if not publishers:
                self._values = {}
            revision = self._status[0]["revision"] if self._status else None
            watched, cameras = self._viewers > 0, self._cameras()
            compressed = self._values.get("image_transport") == "compressed"
            known = bool(self._values)
        waited = time.monotonic() - self._asked_at
        if waited > _ASK_AGAIN_S or (waited > _ASK_S and (revision != self._asked_for
                                                          or not known)):
            self._asked_for, self._asked_at = revision, time.monotonic()
            self._ask()
        self._shown.want(cameras if watched else (), compressed)

    def _ask(self) -> None:
        """Ask for the parameters that are shown; a question without an answer is forgotten."""
        if not self._gets.service_is_ready():
            return
        if self._question is not None:
            self._gets.remove_pending_request(self._question)
        self._question = self._gets.call_async(GetParameters.Request(names=list(_ASKED)))
        self._question.add_done_callback(self._on_values)

    def _on_values(self, call) -> None:
        values = {name: parameter_value_to_python(value)
                  for name, value in zip(_ASKED, call.result().values)}
        with self._lock:
            self._values = {name: list(value) if isinstance(value, (list, tuple)) else value
                            for name, value in values.items() if value is not None}

    def _on_status(self, message: VlaStatus) -> None:
        with self._lock:
            self._status = status_values(message), time.monotonic()

    def _on_sim(self, message: SimStatus) -> None:
        with self._lock:
            self._sim = sim_values(message), time.monotonic()

    def _on_stats(self, message: PruneStats) -> None:
        with self._lock:
            self._point_number += 1
            self._last_query = time.monotonic()
            self._points.append({"n": self._point_number, "t": time.time(),
                                 **stats_values(message)})

    def _on_picture(self, key: tuple[str, str], picture: Picture) -> None:
        with self._lock:
            self._pictures[key] = picture


def _aged(entry: tuple[dict[str, Any], float] | None, now: float):
    return (None, None) if entry is None else (entry[0], now - entry[1])

