"""A node that watches a simulated run over its topics: what ``specprune demo`` counts and films."""
from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

from specprune_ros.msg import ActionChunk, PruneStats, SimStatus, VlaStatus

from .conversions import compressed_to_rgb, image_to_rgb, stamp_to_ns
from .sim_outputs import LATCHED

_PENDING = 8  # pictures that wait for the one of the other camera

Pictures = Callable[[np.ndarray, np.ndarray], None]


class SimMonitor:
    """Subscribes to the topics of a run, in a context of its own. Use it as a context manager.

    status, sim, chunk, stats: the last message of each, None before the first. Hold chunks do not
        count.
    first_chunk, last_chunk: when the first and last chunk came (time.monotonic), None before.

    on_chunk, on_stats, on_sim: called with every message. on_pictures: called with every pair of
    camera pictures of one stamp, uint8 [H, W, 3] RGB; None leaves the cameras alone. Everything is
    called by :meth:`spin`, in its thread.
    """

    def __init__(self, on_chunk: Callable[[ActionChunk], None],
                 on_stats: Callable[[PruneStats], None], on_sim: Callable[[SimStatus], None],
                 on_pictures: Pictures | None = None) -> None:
        self.status: VlaStatus | None = None
        self.sim: SimStatus | None = None
        self.chunk: ActionChunk | None = None
        self.stats: PruneStats | None = None
        self.first_chunk: float | None = None
        self.last_chunk: float | None = None
        self._on = {"chunk": on_chunk, "stats": on_stats, "sim": on_sim}
        self._on_pictures = on_pictures
        self._pending: dict[int, dict[str, np.ndarray]] = {}
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("sim_monitor", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        subscribe = self._node.create_subscription
        subscribe(ActionChunk, "action_chunk", self._chunk, 50)
        subscribe(PruneStats, "prune_stats", partial(self._keep, "stats"), 50)
        subscribe(SimStatus, "sim_status", partial(self._keep, "sim"), 50)
        subscribe(VlaStatus, "vla_status", partial(self._keep, "status"), LATCHED)
        if on_pictures is not None:
            for camera in ("primary", "wrist"):
                # Best effort: a slow film must not hold up the world.
                topic = f"camera/{camera}/image_raw"
                subscribe(Image, topic, partial(self._picture, camera, image_to_rgb),
                          qos_profile_sensor_data)
                subscribe(CompressedImage, f"{topic}/compressed",
                          partial(self._picture, camera, compressed_to_rgb),
                          qos_profile_sensor_data)

    def __enter__(self) -> SimMonitor:  # noqa: PYI034 (Self: Python 3.11)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def spin(self, seconds: float) -> None:
        """Serve callbacks for this long (wall time)."""
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=remaining)

    def parameters(self, node: str, names: list[str], patience: float = 5.0) -> dict[str, object]:
        """Values of a node's parameters, as it runs; {} if it does not answer in time."""
        client = self._node.create_client(GetParameters, f"{node}/get_parameters")
        try:
            deadline = time.monotonic() + patience
            while not client.service_is_ready() and time.monotonic() < deadline:
                self.spin(0.05)
            future = client.call_async(GetParameters.Request(names=names))
            while not future.done() and time.monotonic() < deadline:
                self.spin(0.05)
            if not future.done():
                return {}
            values = future.result().values
            return {name: parameter_value_to_python(value) for name, value in zip(names, values)}
        finally:
            self._node.destroy_client(client)

    def _keep(self, name: str, message: object) -> None:
        setattr(self, name, message)
        if name in self._on:
            self._on[name](message)

    def _chunk(self, message: ActionChunk) -> None:
        if message.source == ActionChunk.HOLD:
            return  # not of the policy
        self.last_chunk = time.monotonic()
        if self.first_chunk is None:
            self.first_chunk = self.last_chunk
        self._keep("chunk", message)

    def _picture(self, camera: str, to_rgb: Callable, message: Image | CompressedImage) -> None:
        stamp = stamp_to_ns(message.header.stamp)
        pair = self._pending.setdefault(stamp, {})
        pair[camera] = to_rgb(message)
        if len(pair) == 2:
            del self._pending[stamp]
            self._on_pictures(pair["primary"], pair["wrist"])
        while len(self._pending) > _PENDING:
            del self._pending[min(self._pending)]
