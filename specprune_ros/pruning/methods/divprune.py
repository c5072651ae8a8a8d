"""DivPrune (Alvar et al., arXiv 2503.02175): the most diverse patches, before the first layer.

    max over C, |C| = M, of min over i != j in C of (1 - cos(e_i, e_j)), by farthest-first traversal
    from the patch whose nearest neighbour is farthest; e = projected visual embeddings.

Left out: nothing; survivors keep their positions (the released code renumbers them).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from specprune_ros.pruning.base import QueryContext, Tokens
from specprune_ros.pruning.checks import check_types
from specprune_ros.pruning.methods.common import (
    DropSession,
    Method,
    check_choice,
    check_keep,
    kept_count,
)
from specprune_ros.pruning.sets import split_evenly


def farthest_first(
    features: torch.Tensor, count: int, candidates: torch.Tensor | None = None
) -> torch.Tensor:
    """Indices [count] of features [n, D] in the order they are picked, by cosine distance.

    candidates: bool [n], the ones that may be picked (at least ``count``); None means all. Ties go
    to the lower index. A zero vector has distance 1 to all others.
    """
    unit = F.normalize(features.float(), dim=-1)
    cosine = unit @ unit.T
    # Exactly symmetric, so that two mutual nearest neighbours tie and the lower index is picked.
    distance = 1.0 - (cosine + cosine.T) / 2
    nearest = distance.clone()
    nearest.fill_diagonal_(torch.inf)
    if candidates is not None:
        nearest.masked_fill_(~candidates[None, :], torch.inf)
    nearest = nearest.amin(1)
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    if candidates is not None:
        taken = ~candidates
    picks = []
    for step in range(count):
        # argmax gives the first of equal values; nothing here waits for the device.
        pick = nearest.masked_fill(taken, -torch.inf).argmax().reshape(1)
        picks.append(pick)
        taken = taken.index_fill(0, pick, True)
        row = distance.index_select(0, pick)[0]
        nearest = row if step == 0 else torch.minimum(nearest, row)
    return torch.cat(picks) if picks else torch.empty(0, dtype=torch.long, device=features.device)


@dataclass(frozen=True)
class DivPruneConfig:
    """keep: 0.098, the paper's 56 of 576 tokens. pool: ``joint`` or an even share per camera."""

    name: str = "divprune"
    keep: float = 0.098
    pool: Literal["joint", "per_camera"] = "joint"

    def __post_init__(self) -> None:
        check_types(self)
        check_keep(self.name, self.keep)
        check_choice(self.name, "pool", self.pool, ("joint", "per_camera"))


class DivPruneSession(DropSession):
    def __init__(self, context: QueryContext, config: DivPruneConfig) -> None:
        super().__init__(context)
        self.config = config
        self.count = kept_count(config.keep, self.layout.visual_tokens)

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        if layer == 0 and self.count < self.layout.visual_tokens:
            features = state.hidden[0, self.patches(state.positions)]
            self.keep_patches(0, state, self._choose(features))
        return super().before_layer(layer, state)

    def _choose(self, features: torch.Tensor) -> torch.Tensor:
        if self.config.pool == "joint":
            return farthest_first(features, self.count).sort().values
        cameras, n = len(self.layout.cameras), self.layout.patches_per_camera
        picks = [
            farthest_first(features[i * n : (i + 1) * n], share) + i * n
            for i, share in enumerate(split_evenly(self.count, cameras))
        ]
        return torch.cat(picks).sort().values


class DivPrune(Method):
    Config, Session = DivPruneConfig, DivPruneSession
