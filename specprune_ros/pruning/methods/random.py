"""Control: patches drawn at random, an even share per camera, or as many as another method kept.

The draw of a query depends on (seed, query number) only. Sets of later layers are subsets of those
of earlier ones. Left out: nothing.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
class RandomConfig:
    """keep: share kept from ``boundary`` (for 32 layers) on, where no counts are given.

    counts: ``counts_from(reports)`` of another method, kept query by query, layer by layer and
    camera by camera. same_every_query: draw once per episode instead of anew for each query.
    """

    name: str = "random"
    keep: float = 0.5
    boundary: int = 0
    seed: int = 0
    same_every_query: bool = False
    counts: Counts | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_keep(self.name, self.keep)
        if self.seed < 0 or self.boundary < 0:
            raise ConfigurationError(f"{self.name}: seed and boundary must be >= 0")


def random_order(seed: int, query: int, cameras: int, patches: int) -> torch.Tensor:
    """int64 [cameras, patches]: a permutation per camera; the same on every machine."""
    generator = np.random.default_rng([seed, query])
    return torch.from_numpy(np.stack([generator.permutation(patches) for _ in range(cameras)]))


class Random(Method):
    Config = RandomConfig

    def begin(self, context: QueryContext) -> PruneSession:
        config, layout = self.config, context.layout
        if config.counts is None:
            counts = constant_counts(config.keep, config.boundary, context)
        else:
            counts = config.counts.of(context.query_number, context, config.name)
        query = 0 if config.same_every_query else context.query_number
        cameras = len(layout.cameras)
        order = random_order(config.seed, query, cameras, layout.patches_per_camera)
        return CountedSession(context, counts, order)
