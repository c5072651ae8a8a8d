"""FastV (Chen et al., arXiv 2403.06764): drop the patches that receive least attention at layer K.

    phi_v = mean over rows i and heads h of a^(K-1)_h(i, v);  keep the round(keep * V) largest.

Left out: nothing; the released code's last-row score is ``rows="stop"``, which means nothing here.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import Attention, QueryContext, Tokens
from specprune_ros.pruning.checks import check_types
from specprune_ros.pruning.methods.common import (
    DropSession,
    Method,
    check_boundaries,
    check_choice,
    check_keep,
    kept_count,
    mean_attention,
    pooled_top,
    scaled_boundary,
    span,
)

_ROWS = ("all", "last_prompt", "readout", "stop")


@dataclass(frozen=True)
class FastVConfig:
    """keep: 1 - R of the paper (R = 0.5). boundary: K of the paper, for 32 layers.

    rows: whose attention counts: ``all`` (the paper), ``last_prompt`` (nearest to the last token of
    a causal model), ``readout`` (rows the action head reads), ``stop`` (literally the last row).
    pool: one top-k over all cameras (``joint``) or an even share each (``per_camera``).
    """

    name: str = "fastv"
    keep: float = 0.5
    boundary: int = 2
    rows: Literal["all", "last_prompt", "readout", "stop"] = "all"
    pool: Literal["joint", "per_camera"] = "joint"

    def __post_init__(self) -> None:
        check_types(self)
        check_keep(self.name, self.keep)
        check_boundaries(self.name, self.boundary)
        check_choice(self.name, "rows", self.rows, _ROWS)
        check_choice(self.name, "pool", self.pool, ("joint", "per_camera"))
        if self.boundary < 1:
            raise ConfigurationError(f"{self.name}: boundary must be >= 1, as it needs a score")


class FastVSession(DropSession):
    def __init__(self, context: QueryContext, config: FastVConfig) -> None:
        super().__init__(context)
        self.config = config
        self.boundary = scaled_boundary(config.boundary, context.depth)
        self.count = kept_count(config.keep, self.layout.visual_tokens)

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        if layer != self.boundary - 1 or self.count >= self.layout.visual_tokens:
            return
        scores = mean_attention(attention, self._rows(attention))
        scores = scores[self.patches(attention.key_positions)]
        cameras = len(self.layout.cameras)
        chosen = pooled_top(scores, self.count, cameras, self.config.pool)
        self.keep_patches(self.boundary, state, chosen)

    def _rows(self, attention: Attention) -> torch.Tensor:
        layout = self.layout
        if self.config.rows == "all":
            return attention.positions
        rows = {
            "last_prompt": range(layout.text.stop - 1, layout.text.stop),
            "readout": layout.readout,
            "stop": range(layout.stop, layout.length),
        }
        return span(rows[self.config.rows], attention.positions.device)


class FastV(Method):
    Config, Session = FastVConfig, FastVSession
