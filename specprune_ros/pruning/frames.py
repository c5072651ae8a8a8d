"""The frame ring: one set of camera frames per control period, found again by stamp."""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping

import numpy as np

# Turns raw camera images into uint8 [n_cam, S, S, 3], exactly what the vision towers see: an array,
# or a tensor where the device prepares them.
Prepare = Callable[[Mapping[str, np.ndarray]], Any]

RING_CAPACITY = 16  # control periods; the largest T of the paper is 11


class Frame:
    """Raw images of one instant; the policy's view of them is prepared when it is first needed.

    Most frames are never compared with, so preparing all of them would be waste. cameras: names in
    token order. Images are referred to, not copied.
    """

    def __init__(
        self,
        stamp: float,
        cameras: tuple[str, ...],
        images: Mapping[str, np.ndarray],
        prepare: Prepare,
    ) -> None:
        self.stamp = stamp
        self.cameras = cameras
        self._images: Mapping[str, np.ndarray] | None = dict(images)
        self._prepare = prepare
        self._pixels: Any = None

    @property
    def pixels(self) -> Any:
        """uint8 [n_cam, S, S, 3]."""
        if self._pixels is None:
            self._pixels = self._prepare(self._images)
            self._images = None
        return self._pixels


@dataclass(frozen=True)
class FrameRing:
    """The newest frames, oldest first, one per control period (s) whatever the camera rate.

    Periods are counted from ``anchor``, the stamp of the first frame; each keeps the frame nearest
    to its middle, so that ``capacity`` frames always reach back as many periods. Immutable.
    """

    period: float
    capacity: int = RING_CAPACITY
    frames: tuple[Frame, ...] = ()
    anchor: float = 0.0

    @property
    def newest(self) -> Frame | None:
        return self.frames[-1] if self.frames else None

    def pushed(self, frame: Frame) -> FrameRing:
        """The ring with a frame added, or replaced, or left out where a nearer one is there.

        A stamp that goes backward empties the ring: time was reset.
        """
        if not self.frames or frame.stamp < self.frames[-1].stamp:
            return replace(self, frames=(frame,), anchor=frame.stamp)
        frames, last = self.frames, self.frames[-1]
        if self._slot(frame) == self._slot(last):
            if self._distance(frame) >= self._distance(last):
                return self
            frames = frames[:-1]
        return replace(self, frames=(*frames, frame)[-self.capacity :])

    def steps_back(
        self, stamp: float, steps: int, cameras: tuple[str, ...] | None = None
    ) -> Frame | None:
        """The frame nearest to ``steps`` control periods before a stamp; never a current one.

        cameras: only frames of exactly these cameras can be compared with; None = any. None if
        there is no such frame. With a short history the oldest one is given.
        """
        past = [
            frame
            for frame in self.frames
            if frame.stamp <= stamp - 0.5 * self.period and cameras in (None, frame.cameras)
        ]
        if not past:
            return None
        target = stamp - steps * self.period
        return min(past, key=lambda frame: (abs(frame.stamp - target), -frame.stamp))

    def _periods(self, frame: Frame) -> float:
        return (frame.stamp - self.anchor) / self.period

    def _slot(self, frame: Frame) -> int:
        return math.floor(self._periods(frame) + 0.5)

    def _distance(self, frame: Frame) -> float:
        return abs(self._periods(frame) - self._slot(frame))
