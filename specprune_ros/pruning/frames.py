"""The frame ring: one set of camera frames per control period, found again by stamp."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Mapping

import numpy as np

# Turns raw camera images into uint8 [n_cam, S, S, 3], exactly what the vision towers see.
Prepare = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Frame:
    """Raw images of one instant; the policy's view of them is prepared when it is first needed.

    Most frames are never compared with, so preparing all of them would be waste.
    """

    def __init__(self, stamp: float, images: Mapping[str, np.ndarray], prepare: Prepare) -> None:
        self.stamp = stamp
        self._images: Mapping[str, np.ndarray] | None = dict(images)
        self._prepare = prepare
        self._pixels: np.ndarray | None = None

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [n_cam, S, S, 3]."""
        if self._pixels is None:
            self._pixels = self._prepare(self._images)
            self._images = None
        return self._pixels


@dataclass(frozen=True)
class FrameRing:
    """The newest frames, oldest first, at most one per control period (s). Immutable."""

    period: float
    capacity: int = 16
    frames: tuple[Frame, ...] = ()

    @property
    def newest(self) -> Frame | None:
        return self.frames[-1] if self.frames else None

    def pushed(self, frame: Frame) -> FrameRing:
        """The ring with a frame added, unless one of its control period is there already.

        A camera faster than the controller would otherwise shorten the history; half a period of
        tolerance absorbs jitter. A stamp that goes backward empties the ring: time was reset.
        """
        frames = self.frames
        if frames and frame.stamp < frames[-1].stamp:
            frames = ()
        if frames and frame.stamp - frames[-1].stamp < 0.5 * self.period:
            return FrameRing(self.period, self.capacity, frames)
        return FrameRing(self.period, self.capacity, (*frames, frame)[-self.capacity :])

    def steps_back(self, stamp: float, steps: int) -> Frame | None:
        """The frame nearest to ``steps`` control periods before a stamp; never a current one.

        None if every frame is as new as the stamp. With a short history the oldest one is given.
        """
        past = [f for f in self.frames if f.stamp <= stamp - 0.5 * self.period]
        if not past:
            return None
        target = stamp - steps * self.period
        return min(past, key=lambda f: (abs(f.stamp - target), -f.stamp))


def frame_interval(speed: float, offset: float, slope: float, longest: int) -> int:
    """T in control periods: floor(offset + slope * v) + 4, clamped to 1..longest.

    speed: end-effector speed in controller units per control period (0.05 m), as in the paper's
    Algorithm 1; a fast arm is compared with a nearer frame. NaN (not known) counts as 0.
    """
    v = 0.0 if math.isnan(speed) else max(speed, 0.0)
    return max(1, min(math.floor(offset + slope * v) + 4, longest))
