"""Pictures for ``specprune view``: of a camera, and of what was kept of it, as JPEG."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from ..errors import ImageError
from .conversions import compressed_to_rgb, image_to_rgb, rgb_to_compressed

PERIOD_S = 0.15  # wall; pictures that come sooner after one are left out
LARGEST = 480  # px; larger pictures are thinned out
_QUALITY = 80
CAMERA, KEPT = "camera", "kept"


@dataclass(frozen=True)
class Picture:
    """number: grows with every picture. at: time.monotonic. trouble: why there is none."""

    number: int
    at: float
    jpeg: bytes
    trouble: str = ""


class Pictures:
    """Subscribes to cameras and their overlays while somebody looks. Of the executor's thread.

    The node draws an overlay only where there is a subscription, so there must be none otherwise.
    """

    def __init__(self, node: Node, keep: Callable[[tuple[str, str], Picture], None]) -> None:
        """keep: called with (camera, CAMERA or KEPT) and each picture that is to be shown."""
        self._node, self._keep = node, keep
        self._open: dict[tuple[str, str, type], object] = {}
        self._last: dict[tuple[str, str], float] = {}
        self._number = 0

    def want(self, cameras: Sequence[str], compressed: bool) -> None:
        """Have exactly the subscriptions of these cameras."""
        raw = CompressedImage if compressed else Image
        wanted = {(name, which, kind) for name in cameras
                  for which, kind in ((CAMERA, raw), (KEPT, Image))}
        for key in set(self._open) - wanted:
            self._node.destroy_subscription(self._open.pop(key))
        for key in sorted(wanted - set(self._open), key=str):
            self._open[key] = self._subscribe(*key)

    def _subscribe(self, camera: str, which: str, kind: type):
        # Best effort and shallow: a browser that is slow must not hold up a camera.
        profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        topic = f"camera/{camera}/kept_patches"
        if which == CAMERA:
            topic = f"camera/{camera}/image_raw" + (
                "/compressed" if kind is CompressedImage else "")
        return self._node.create_subscription(
            kind, topic, lambda message: self._take((camera, which), message), profile)

    def _take(self, key: tuple[str, str], message: Image | CompressedImage) -> None:
        now = time.monotonic()
        if key[1] == CAMERA and now - self._last.get(key, -math.inf) < PERIOD_S:
            return  # overlays come once per query, and each counts
        self._last[key] = now
        self._number += 1
        try:
            rgb = (image_to_rgb(message) if isinstance(message, Image)
                   else compressed_to_rgb(message))
            picture = Picture(self._number, now, _jpeg(rgb, message))
        except ImageError as error:
            picture = Picture(self._number, now, b"", str(error))
        self._keep(key, picture)


def _jpeg(rgb: np.ndarray, message: Image | CompressedImage) -> bytes:
    stride = max(1, math.ceil(max(rgb.shape[:2]) / LARGEST))
    small = np.ascontiguousarray(rgb[::stride, ::stride])
    return rgb_to_compressed(small, message.header.stamp, quality=_QUALITY).data.tobytes()
