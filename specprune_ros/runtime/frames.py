"""Camera pictures to the policy's view on a device: one upload of bytes, the rest happens there."""
from __future__ import annotations

from typing import Sequence

import numpy as np
import torch

from specprune_ros.runtime.graph import Captured, Direct
from specprune_ros.vla.openvla_oft.preprocess_torch import prepare_frames

Shapes = tuple[tuple[int, int], ...]  # height and width of each picture


class FramePreparer:
    """Prepares the pictures of all cameras at once; they may differ in size.

    On CUDA sizes that were learnt are replayed as a graph; others run operation by operation, which
    takes a little longer and gives the same.
    """

    def __init__(
        self, device: torch.device, size: int, center_crop: bool, jpeg_roundtrip: bool
    ) -> None:
        self._device, self._settings = device, (size, center_crop, jpeg_roundtrip)
        self._graphs = device.type == "cuda"
        self._ready: dict[Shapes, _Upload] = {}

    def __call__(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """uint8 [H, W, 3] of each camera -> uint8 [n_cam, S, S, 3] on the device."""
        upload = self._upload(images)
        with torch.inference_mode():
            upload.fill(images)
            # A copy: frames are kept, and the next replay writes to the same place.
            return upload.runner.replay().clone()

    def learn(self, images: Sequence[np.ndarray]) -> None:
        """Capture what pictures of these sizes need, outside of a query."""
        upload = self._upload(images)
        if self._graphs and isinstance(upload.runner, Direct):
            upload.runner = Captured(upload.function, self._device)

    def _upload(self, images: Sequence[np.ndarray]) -> _Upload:
        shapes = tuple(image.shape[:2] for image in images)
        if shapes not in self._ready:
            self._ready[shapes] = _Upload(shapes, self._device, self._settings)
        return self._ready[shapes]


class _Upload:
    """Pinned bytes of one set of sizes, the same bytes on the device, and what is done there."""

    def __init__(
        self, shapes: Shapes, device: torch.device, settings: tuple[int, bool, bool]
    ) -> None:
        self._shapes, self._settings = shapes, settings
        sizes = [3 * height * width for height, width in shapes]
        self._cuda = device.type == "cuda"
        self._host = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=self._cuda)
        self._bytes = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        self._host_parts = [part.numpy() for part in self._host.split(sizes)]
        self._sent = torch.cuda.Event() if self._cuda else None
        self.runner: Captured[torch.Tensor] | Direct[torch.Tensor] = Direct(self.function)

    def fill(self, images: Sequence[np.ndarray]) -> None:
        """Queue the upload."""
        if self._sent is not None:
            self._sent.synchronize()  # of the previous upload from these bytes
        for part, image in zip(self._host_parts, images):
            np.copyto(part.reshape(image.shape), image)
        self._bytes.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    def function(self) -> torch.Tensor:
        """The view of all cameras, from the bytes on the device."""
        if len(set(self._shapes)) == 1:
            return prepare_frames(self._bytes.view(-1, *self._shapes[0], 3), *self._settings)
        sizes = [3 * height * width for height, width in self._shapes]
        parts = zip(self._bytes.split(sizes), self._shapes)
        return torch.cat([
            prepare_frames(part.view(1, *shape, 3), *self._settings) for part, shape in parts
        ])
