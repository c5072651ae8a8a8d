"""Asks the nodes for episodes and collects what they publish: ``specprune eval --through-ros``."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import rclpy
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from specprune_ros.msg import ActionChunk, PruneStats, SimStatus, VlaStatus

from ..errors import SpecpruneError
from .conversions import NANOSECONDS, stamp_to_ns
from .qos import latched, results

VLA, BRIDGE = "vla_node", "sim_bridge_node"
_SPIN_S = 0.1
_LATE_S = 10.0  # what the nodes have published by the end of an episode is there by then
_DEPTH = 1000  # messages; more than an episode has


class NodesError(SpecpruneError):
    """The nodes cannot play an episode: a fault, no answer, nothing for too long, lost messages."""


@dataclass(frozen=True)
class PlayedQuery:
    """A query as the nodes published it.

    at: control periods played before it. actions: float64 [C, 7], saturated. kept: visual tokens,
    [layer][camera]. fallback: dense in the place of the method, whose chunk was refused or failed.
    inference_s: as vla_node reports it. age_s: from the publication of the observation to the
    chunk's arrival at the bridge, wall seconds.
    """

    at: int
    actions: np.ndarray
    kept: tuple[tuple[int, ...], ...]
    flops: float
    dense_flops: float
    fine: bool
    fallback: bool
    inference_s: float
    age_s: float


@dataclass(frozen=True)
class PlayedEpisode:
    """An episode as the nodes published it; wall_s from the request to its end."""

    instruction: str
    success: bool
    steps: int
    cameras: tuple[str, ...]
    queries: tuple[PlayedQuery, ...]
    wall_s: float


class EpisodeClient:
    """A node of its own, in a context of its own. Use it from one thread.

    The bridge must run with ``on_request``, in lockstep, and must not have played before.
    """

    def __init__(self, domain: int, control_period: float, replan: int,
                 check: Callable[[], None], patience: float) -> None:
        """replan: actions played per chunk. check: called while waiting, raises where a process is
        gone. patience: wall seconds without any news after which waiting is given up."""
        self._period_ns = round(control_period * NANOSECONDS)
        self._replan = replan
        self._check, self._patience = check, patience
        self._number = -1  # of the episode, as the bridge counts
        self._chunks: dict[int, ActionChunk] = {}
        self._holds: set[int] = set()  # their stamps
        self._stats: dict[int, PruneStats] = {}
        self._statuses: dict[int, SimStatus] = {}  # by step, of the running episode
        self._end: SimStatus | None = None
        self._vla: VlaStatus | None = None
        self._vla_at = self._news = time.monotonic()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("episode_client", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        # Before any client of a service: discovery goes by the order of creation, so a node that
        # answers a call knows of these, and nothing it publishes from then on is missed.
        subscribe = self._node.create_subscription
        subscribe(ActionChunk, "action_chunk", self._on_chunk, results(_DEPTH))
        subscribe(PruneStats, "prune_stats", self._on_stats, results(_DEPTH))
        subscribe(SimStatus, "sim_status", self._on_sim, results(_DEPTH))
        subscribe(VlaStatus, "vla_status", self._on_vla, latched())
        self._clients: dict[str, object] = {}

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    # ---- requests ------------------------------------------------------------------------------

    def use_method(self, pruning: str, seed: int) -> None:
        """Have vla_node use a pruning method from the next query on. Raises NodesError."""
        self._set(VLA, {"pruning": pruning, "pruning_seed": seed})

    def play(self, task: int, init_state: int) -> PlayedEpisode:
        """Have the bridge play an episode, and wait for its end. Raises NodesError."""
        for seen in (self._chunks, self._holds, self._stats, self._statuses):
            seen.clear()
        self._end = None
        self._number += 1
        self._set(BRIDGE, {"task": task, "seed": init_state})
        began = time.monotonic()
        answer = self._call(Trigger, f"{BRIDGE}/play_episode", Trigger.Request())
        if not answer.success:
            raise NodesError(f"{BRIDGE} refuses to play: {answer.message}")
        self._wait(lambda: self._end is not None, f"the end of the episode of {init_state}")
        wall, end = time.monotonic() - began, self._end
        if end.init_state != init_state:
            raise NodesError(f"{BRIDGE} played initial state {end.init_state}, not {init_state}")
        return self._collected(end, wall)

    def _collected(self, end: SimStatus, wall: float) -> PlayedEpisode:
        """The episode, once all of its messages are there: topics have no order among them."""
        start = stamp_to_ns(end.header.stamp) - end.step * self._period_ns
        queries = {start + at * self._period_ns: at for at in range(0, end.step, self._replan)}

        def complete() -> bool:
            return (queries.keys() <= self._chunks.keys() & self._stats.keys()
                    and all(at + 1 in self._statuses for at in queries.values()))

        deadline = time.monotonic() + _LATE_S
        while not complete():
            if time.monotonic() > deadline:
                self._check_held(queries)
                raise NodesError(
                    f"messages of the nodes were lost: of the {len(queries)} queries of the "
                    f"episode, {len(queries.keys() & self._chunks.keys())} chunks and "
                    f"{len(queries.keys() & self._stats.keys())} statistics came. Is the machine "
                    "overloaded, or was this process suspended?")
            self._spin()
        cameras = tuple(self._stats[start].cameras)
        return PlayedEpisode(
            end.instruction, end.success, end.step, cameras,
            tuple(self._query(stamp, at, len(cameras)) for stamp, at in queries.items()), wall)

    def _check_held(self, queries: Mapping[int, int]) -> None:
        """Raise NodesError where the arm was held still, since the policy had no answer."""
        held = [at for stamp, at in queries.items()
                if stamp in self._holds and stamp not in self._chunks]
        if held:
            said = self._vla.last_rejection if self._vla is not None else ""
            raise NodesError(
                f"{VLA} had no answer to the observation after {held[0]} control periods and held "
                "the arm still, which is no episode of the method. The log of the node says why"
                + (f"; its guard refused last: {said}" if said else ""))

    def _query(self, stamp: int, at: int, cameras: int) -> PlayedQuery:
        chunk, stats = self._chunks[stamp], self._stats[stamp]
        kept = np.reshape(stats.visual_tokens_per_layer, (-1, cameras)).tolist()
        return PlayedQuery(
            at=at,
            actions=np.array(chunk.data, np.float64).reshape(chunk.horizon, chunk.dof),
            kept=tuple(map(tuple, kept)),
            flops=stats.flops,
            dense_flops=stats.dense_flops,
            fine=stats.mode == PruneStats.FINE,
            fallback=chunk.source == ActionChunk.DENSE,
            inference_s=chunk.inference_time,
            age_s=self._statuses[at + 1].observation_age,
        )

    def _set(self, node: str, values: Mapping[str, object]) -> None:
        request = SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        service = f"{node}/set_parameters_atomically"
        result = self._call(SetParametersAtomically, service, request).result
        if not result.successful:
            given = ", ".join(f"{name}={value}" for name, value in values.items())
            raise NodesError(f"{node} refuses {given}: {result.reason}")

    def _call(self, kind: type, service: str, request: object):
        if service not in self._clients:
            self._clients[service] = self._node.create_client(kind, service)
        client = self._clients[service]
        self._news = time.monotonic()
        self._wait(client.service_is_ready, f"the service {service}")
        future = client.call_async(request)
        self._wait(future.done, f"an answer of {service}")
        return future.result()

    # ---- waiting -------------------------------------------------------------------------------

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        """Spin until ``done()``. Raises NodesError for a fault, or after too long without news."""
        while not done():
            self._check()
            status = self._vla
            if status is not None and status.state == VlaStatus.FAULT:
                raise NodesError(f"{VLA} reports a fault: {status.fault_text}")
            if time.monotonic() - self._news > self._patience:
                raise NodesError(f"no news for {self._patience:g} s while waiting for {what}; "
                                 f"{self._story()}")
            self._spin()

    def _spin(self) -> None:
        self._executor.spin_once(timeout_sec=_SPIN_S)

    def _story(self) -> str:
        if self._vla is None:
            return f"{VLA} has published no status"
        said = self._vla.fault_text or f"nothing is missing, {self._vla.chunks} chunks so far"
        return f"{VLA} said {time.monotonic() - self._vla_at:.0f} s ago: {said}"

    # ---- messages ------------------------------------------------------------------------------

    def _on_chunk(self, message: ActionChunk) -> None:
        self._news = time.monotonic()
        stamp = stamp_to_ns(message.header.stamp)
        if message.source == ActionChunk.HOLD:
            self._holds.add(stamp)
        else:  # the first counts: the bridge plays no second one of the same stamp either
            self._chunks.setdefault(stamp, message)

    def _on_stats(self, message: PruneStats) -> None:
        self._stats.setdefault(stamp_to_ns(message.header.stamp), message)

    def _on_sim(self, message: SimStatus) -> None:
        self._news = time.monotonic()
        if message.episode != self._number:
            return
        self._statuses[message.step] = message
        if message.done:
            self._end = message

    def _on_vla(self, message: VlaStatus) -> None:
        self._vla, self._vla_at = message, time.monotonic()
