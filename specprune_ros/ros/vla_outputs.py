"""What vla_node publishes about its queries."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from nav_msgs.msg import Path
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image

from specprune_ros.msg import ActionChunk, PruneStats

from . import qos
from .conversions import rgb_to_image
from .messages import Hold, Published, chunk_message, hold_message, stats_message
from .overlay import depth_of_patches, draw
from .publishing import publish_while_up
from .query import QueryResult
from .tool_path import ToolPath

_PATIENCE = 0.5  # wall s for subscribers that are slow to take the last chunk


class VlaOutputs:
    """The publishers of chunks and their stats; silent unless the node is active."""

    def __init__(self, node: LifecycleNode, cameras: Sequence[str],
                 dry_run: Callable[[], bool]) -> None:
        """Open the topics. ``dry_run``: whether nothing may reach whatever moves, at present."""
        self._node = node
        self._dry_run = dry_run
        self._undo: list[Callable[[], object]] = []
        self._chunks = self._advertise(ActionChunk, "action_chunk")
        self._preview = self._advertise(ActionChunk, "action_chunk_preview")
        self._stats = self._advertise(PruneStats, "prune_stats")
        self._overlays = {camera: self._advertise(Image, f"camera/{camera}/kept_patches")
                          for camera in cameras}
        self._path_topic = self._advertise(Path, "tool_path")
        self._path = ToolPath()

    def close(self) -> None:
        """Close the topics, once the last chunk has arrived."""
        self._chunks.wait_for_all_acked(Duration(seconds=_PATIENCE))
        while self._undo:
            self._undo.pop()()

    def publish(self, result: QueryResult) -> None:
        self._send(chunk_message(result))

    def hold(self, hold: Hold) -> None:
        self._send(hold_message(hold))

    def publish_stats(self, published: Published) -> None:
        publish_while_up(self._stats, stats_message(published), self._node.context)
        self._publish_overlays(published.result)
        self._path.add(published.result)
        if self._path_topic.get_subscription_count() > 0:
            publish_while_up(self._path_topic, self._path.message(published.result),
                             self._node.context)

    def _publish_overlays(self, result: QueryResult) -> None:
        """A picture per camera of what was kept, where somebody looks at it."""
        watched = [camera for camera, publisher in self._overlays.items()
                   if publisher.get_subscription_count() > 0]
        if not watched:
            return
        depth = depth_of_patches(result.chunk.report)
        for camera in watched:
            if camera not in depth:
                continue
            header = result.job.query.pictures.images[camera].header
            picture = draw(result.observation.images[camera], depth[camera],
                           result.job.settings["center_crop"])
            publish_while_up(self._overlays[camera],
                             rgb_to_image(picture, header.stamp, header.frame_id),
                             self._node.context)

    def _send(self, message: ActionChunk) -> None:
        publisher = self._preview if self._dry_run() else self._chunks
        publish_while_up(publisher, message, self._node.context)

    def _advertise(self, kind: type, topic: str):
        publisher = self._node.create_lifecycle_publisher(
            kind, topic, qos.results(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())
        self._undo.append(partial(self._node.destroy_lifecycle_publisher, publisher))
        return publisher
