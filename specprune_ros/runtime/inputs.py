"""What a query is fed with: checked observations, prompts, layouts, pictures for the towers.

Frames stay raw until they are needed: most are never compared with.
"""
from __future__ import annotations

import logging
from dataclasses import replace
from typing import Mapping

import numpy as np
import torch

from specprune_ros.errors import ObservationError
from specprune_ros.pruning.frames import Frame
from specprune_ros.runtime.frames import FramePreparer
from specprune_ros.tokens import TokenLayout
from specprune_ros.vla.openvla_oft.model import LoadedCheckpoint, check_layout
from specprune_ros.vla.openvla_oft.preprocess import check_image, prepare_image
from specprune_ros.vla.openvla_oft.statistics import Statistics
from specprune_ros.vla.openvla_oft.text import Prompt

_log = logging.getLogger(__name__)
PRIMARY = "primary"


class QueryInputs:
    """Checks and prepares the parts of an observation for one checkpoint."""

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        statistics: Statistics,
        center_crop: bool,
        jpeg_roundtrip: bool,
        chunk_length: int,
    ) -> None:
        self.model = loaded.model
        self.statistics = statistics
        self.chunk_length = chunk_length
        self._prompts = loaded.prompts
        self._center_crop = center_crop
        self._jpeg_roundtrip = jpeg_roundtrip
        self._warned_no_proprio = False
        self._on_device: FramePreparer | None = None
        if self.model.device.type == "cuda":
            size = self.model.config.image_size
            self._on_device = FramePreparer(self.model.device, size, center_crop, jpeg_roundtrip)

    def prompt(self, instruction: str) -> Prompt:
        if not isinstance(instruction, str):
            raise ObservationError(f"the instruction is {type(instruction).__name__}, not a string")
        return self._prompts.encode(instruction)

    def proprio(self, proprio: np.ndarray | None) -> np.ndarray | None:
        if proprio is not None:
            if self.model.proprio_projector is None:
                raise ObservationError(
                    "this checkpoint has no proprio projector: give proprio=None"
                )
            return self.statistics.normalize_proprio(proprio)
        if self.model.proprio_projector is not None and not self._warned_no_proprio:
            self._warned_no_proprio = True
            _log.warning(
                "proprio=None, but the checkpoint has a proprio projector: the proprio token is "
                "left out, which the policy was not trained for"
            )
        return None

    def layout(self, cameras: tuple[str, ...], prompt: Prompt, proprio: bool) -> TokenLayout:
        layout = TokenLayout(
            cameras=cameras,
            patches_per_camera=self.model.config.patches_per_camera,
            proprio=proprio,
            prompt_tokens=len(prompt.ids) - 1,
            action_tokens=self.chunk_length * self.model.action_dim,
            instruction_span=prompt.instruction_span,
        )
        check_layout(self.model.config, layout)
        return layout

    def typical_layouts(
        self, cameras: tuple[str, ...], proprio: bool, longest: int = 64
    ) -> list[TokenLayout]:
        """Layouts of prompts of all lengths up to ``longest`` tokens, a short one first."""
        prompt = self.prompt("warm up")
        first, last = prompt.instruction_span
        layout = self.layout(cameras, prompt, proprio)
        return [layout] + [
            replace(layout, prompt_tokens=n, instruction_span=(first, last + n - len(prompt.ids)))
            for n in range(len(prompt.ids), longest + 1)
        ]

    def frame(
        self, images: Mapping[str, np.ndarray], stamp: float, copy: bool = False
    ) -> Frame:
        cameras = ordered_cameras(images)
        checked = {name: check_image(images[name], name) for name in cameras}
        if copy:
            checked = {name: image.copy() for name, image in checked.items()}
        return Frame(stamp, cameras, checked, self._prepare)

    def learn(self, images: Mapping[str, np.ndarray]) -> None:
        """Get ready for pictures of these sizes, outside of a query."""
        if self._on_device is not None:
            self._on_device.learn([images[name] for name in ordered_cameras(images)])

    def _prepare(self, images: Mapping[str, np.ndarray]) -> np.ndarray | torch.Tensor:
        """Raw images -> uint8 [n_cam, S, S, 3], what the policy sees; on the device with CUDA."""
        ordered = [images[name] for name in ordered_cameras(images)]
        if self._on_device is not None:
            return self._on_device(ordered)
        size = self.model.config.image_size
        return np.stack([
            prepare_image(image, size, self._center_crop, self._jpeg_roundtrip)
            for image in ordered
        ])

    def pixels(self, frame: Frame) -> torch.Tensor:
        """float32 [n_cam, 6, S, S]: the channels of both towers."""
        return self.model.pixel_values(torch.as_tensor(frame.pixels))


def ordered_cameras(images: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """``primary`` first, then the names that contain ``wrist``, in their order."""
    if not isinstance(images, Mapping) or not all(isinstance(name, str) for name in images):
        raise ObservationError(
            f"images is {type(images).__name__}, expected a mapping of camera names to arrays"
        )
    if PRIMARY not in images:
        raise ObservationError(
            f"the observation has no image '{PRIMARY}' (it has: {', '.join(images) or 'none'})"
        )
    others = [name for name in images if name != PRIMARY]
    unknown = [name for name in others if "wrist" not in name]
    if unknown:
        raise ObservationError(
            f"image '{unknown[0]}' is neither '{PRIMARY}' nor a wrist camera: a further camera "
            "must have 'wrist' in its name, as openvla-oft orders them"
        )
    return (PRIMARY, *others)
