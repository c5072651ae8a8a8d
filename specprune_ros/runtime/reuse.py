"""Features of a camera kept from query to query while nothing in its picture changes.

A vision tower sees the whole picture at once, so one changed patch changes the features of all: a
camera's features are used again as a whole, or not at all. Pictures are compared with the one that
the features were computed from, so that slow changes cannot creep in query by query.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.similarity import patch_similarity


@dataclass(frozen=True)
class Seen:
    """A picture uint8 [S, S, 3] and the features [N, F] that the towers gave for it."""

    picture: torch.Tensor
    features: torch.Tensor


Memory = Mapping[str, Seen]  # by camera


@dataclass(frozen=True)
class VisionReuse:
    """similarity: SSIM that every patch must have for features to be used again; 1 allows only
    pictures that are the same to the last bit, 0 switches reuse off.
    """

    similarity: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.similarity <= 1.0:
            raise ConfigurationError(
                f"vision_reuse is {self.similarity}: it is the similarity of patches from which "
                "on features are used again, in [0, 1], or 0 to switch that off"
            )

    @property
    def enabled(self) -> bool:
        return self.similarity > 0

    def known(
        self, frame: torch.Tensor, cameras: tuple[str, ...], memory: Memory | None, grid: int
    ) -> tuple[torch.Tensor | None, ...]:
        """Features of the cameras that need no towers, None for the others; empty if switched off.

        frame: uint8 [n_cam, S, S, 3]. On a CUDA device this waits for the comparison.
        """
        if not self.enabled:
            return ()
        memory = memory or {}
        return tuple(
            memory[name].features
            if name in memory and self._same(picture, memory[name].picture, grid) else None
            for name, picture in zip(cameras, frame)
        )

    def _same(self, picture: torch.Tensor, before: torch.Tensor, grid: int) -> bool:
        if self.similarity == 1.0:
            return torch.equal(picture, before)
        similarity = patch_similarity(picture[None], [before[None]], grid, "ssim")
        return bool(similarity.min() >= self.similarity)

    def remembered(
        self, frame: torch.Tensor, cameras: tuple[str, ...], memory: Memory | None,
        known: tuple[torch.Tensor | None, ...], features: torch.Tensor,
    ) -> Memory | None:
        """What the next query may use. features: [1, n_cam*N, F] of this query."""
        if not self.enabled:
            return None
        found = {}
        for camera, name in enumerate(cameras):
            if known[camera] is not None:
                found[name] = memory[name]
            else:
                own = features[0].chunk(len(cameras))[camera].clone()
                found[name] = Seen(frame[camera], own)
        return found


NO_REUSE = VisionReuse()
