"""Control: an even grid of patches per camera, or as many as another method kept.

Patches are taken in the order of an ordered-dither (Bayer 1973) matrix: each prefix covers the
image evenly (N/4 patches are every second row and column, N/2 a checkerboard), and smaller sets are
subsets of larger ones. Left out: nothing.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import PruneSession, QueryContext
from specprune_ros.pruning.checks import check_types
from specprune_ros.pruning.methods.common import (
    CountedSession,
    Counts,
    Method,
    check_keep,
    constant_counts,
)


@dataclass(frozen=True)
class UniformConfig:
    """keep: share kept from ``boundary`` (for 32 layers) on, where no counts are given.

    counts: ``counts_from(reports)`` of another method, kept query by query, layer by layer and
    camera by camera.
    """

    name: str = "uniform"
    keep: float = 0.5
    boundary: int = 0
    counts: Counts | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_keep(self.name, self.keep)
        if self.boundary < 0:
            raise ConfigurationError(f"{self.name}: boundary must be >= 0")


def grid_order(grid: int) -> torch.Tensor:
    """int64 [grid * grid]: patch indices, each prefix spread evenly over the grid."""
    matrix = torch.zeros(1, 1, dtype=torch.long)
    while len(matrix) < grid:
        top = torch.cat([4 * matrix, 4 * matrix + 2], dim=1)
        bottom = torch.cat([4 * matrix + 3, 4 * matrix + 1], dim=1)
        matrix = torch.cat([top, bottom])
    return torch.argsort(matrix[:grid, :grid].flatten(), stable=True)


class Uniform(Method):
    Config = UniformConfig

    def begin(self, context: QueryContext) -> PruneSession:
        config, layout = self.config, context.layout
        if config.counts is None:
            counts = constant_counts(config.keep, config.boundary, context)
        else:
            counts = config.counts.of(context.query_number, context, config.name)
        order = grid_order(layout.grid).expand(len(layout.cameras), -1).contiguous()
        return CountedSession(context, counts, order)
