"""The towers as programs of their own, for queries that may leave some cameras out."""
from __future__ import annotations

from collections.abc import Sequence

import torch

from specprune_ros.runtime.graph import Captured, Direct
from specprune_ros.runtime.streams import SideStream
from specprune_ros.vla.openvla_oft.model import OpenVLAOFT


class VisionPrograms:
    """A program per number of cameras whose towers run, made when first needed.

    graph: capture them (CUDA only), in the memory ``pool``.
    """

    def __init__(self, model: OpenVLAOFT, graph: bool, pool: tuple[int, int] | None) -> None:
        self._model, self._graph, self._pool = model, graph, pool
        self._programs: dict[int, tuple[_Towers, Captured | Direct]] = {}

    def prepare(self, cameras: int) -> bool:
        """Make the program for so many cameras; whether it was not there yet."""
        if cameras in self._programs:
            return False
        towers = _Towers(self._model, cameras)
        runner = Captured(towers, self._model.device, self._pool) if self._graph else Direct(towers)
        self._programs[cameras] = towers, runner
        return True

    def __call__(
        self, frame: torch.Tensor, known: Sequence[torch.Tensor | None], target: torch.Tensor
    ) -> bool:
        """Fill ``target`` [1, n_cam*N, F] with the features known and those computed now.

        frame: uint8 [n_cam, S, S, 3]. Gives whether a program had to be made.
        """
        slots = target[0].chunk(len(known))
        fresh = [camera for camera, features in enumerate(known) if features is None]
        for slot, features in zip(slots, known):
            if features is not None:
                slot.copy_(features)
        if not fresh:
            return False
        made = self.prepare(len(fresh))
        towers, runner = self._programs[len(fresh)]
        for place, camera in zip(towers.frame, fresh):
            place.copy_(frame[camera], non_blocking=True)
        found = runner.replay()
        for part, camera in zip(found[0].chunk(len(fresh)), fresh):
            slots[camera].copy_(part)
        return made


class _Towers:
    """Both towers on the pictures in ``frame``, uint8 [n, S, S, 3] -> [1, n*N, F]."""

    def __init__(self, model: OpenVLAOFT, cameras: int) -> None:
        size, device = model.config.image_size, model.device
        self._model = model
        self.frame = torch.zeros((cameras, size, size, 3), dtype=torch.uint8, device=device)
        self._side = SideStream(device) if device.type == "cuda" else None

    def __call__(self) -> torch.Tensor:
        pixels = self._model.pixel_values(self.frame)
        features = self._model.encode_images(pixels, self._side)
        if self._side is not None:
            self._side.wait()
        return features
