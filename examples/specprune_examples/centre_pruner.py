"""A pruner: from decoder layer 1 on, only the patches in the middle of each picture stay.

    pip install ./examples
    specprune compare --synthetic square --methods off,centre --json out.json
"""
from __future__ import annotations

import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import PruneSession, QueryContext, SessionResult, Tokens
from specprune_ros.types import CameraTokens


class CentrePruner:
    """Settings of the method. side: of the square that stays, as a share of the picture's side."""

    name = "centre"
    looks_back = False  # needs no earlier frame, so none is prepared

    def __init__(self, side: float = 0.5) -> None:
        if not 0.0 < side <= 1.0:
            raise ConfigurationError(f"centre: side must lie in (0, 1], not {side}")
        self.side = side

    def begin(self, context: QueryContext) -> PruneSession:
        return _Session(context, self.side)


class _Session(PruneSession):
    """One query. Methods that it does not override keep everything."""

    def __init__(self, context: QueryContext, side: float) -> None:
        super().__init__(context)
        grid = self.layout.grid
        middle = (torch.arange(grid) + 0.5) / grid - 0.5
        inside = middle.abs() <= side / 2
        self._patches = torch.outer(inside, inside).flatten()  # [N] bool, row-major

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        """The rows that enter the layer. BOS, proprio, text and placeholders must stay."""
        if layer != 1:
            return state
        keep = torch.ones(len(state.positions), dtype=torch.bool)  # nothing was dropped before
        for camera in range(len(self.layout.cameras)):
            patches = self.layout.camera(camera)
            keep[patches.start:patches.stop] = self._patches
        return state.select(keep.nonzero()[:, 0].to(state.positions.device))

    def finish(self) -> SessionResult:
        """What the report says, per camera: patches, the three sets of SpecPrune, what stayed."""
        kept = int(self._patches.sum())
        n = self.layout.patches_per_camera
        return SessionResult(tuple(
            CameraTokens(name, tokens_in=n, global_set=0, dynamic_set=0, local_set=kept,
                         kept_static=kept)
            for name in self.layout.cameras))
