"""VLA-Pruner (Liu et al., arXiv 2511.16449): patches that matter to meaning or to recent actions.

    S_vl[v]  = attention received at layer K-1 from all rows but the placeholders
    S_act[v] = attention received from the action read-out rows, mean over the deeper half of layers
    S^_t = sum for i = 1..w of gamma^i S_act^(t-i), the newest call weighing most
    C = top-M(S_vl) | top-M(S^_t);  of C the M most diverse embeddings stay (DivPrune's greedy)

The first w queries are dense. Left out: nothing (the released code reverses the decay).
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import Attention, QueryContext, SessionResult, Tokens
from specprune_ros.pruning.checks import check_types
from specprune_ros.pruning.methods.common import (
    DropSession,
    Method,
    check_boundaries,
    check_keep,
    kept_count,
    mean_attention,
    scaled_boundary,
    span,
    top_indices,
)
from specprune_ros.pruning.methods.divprune import farthest_first
from specprune_ros.pruning.schedule import check_layers, scale_layers


@dataclass(frozen=True)
class VLAPrunerConfig:
    """keep: the paper's 50 % (also 25 and 12.5 %). boundary, action_layers: for 32 layers.

    window, decay: w and gamma. action_layers: the paper's second half; the released code uses 15.
    carry: factor on the old action score of a patch that was not alive (the paper: 0, so such a
    patch can only return through its meaning).
    """

    name: str = "vla_pruner"
    keep: float = 0.5
    boundary: int = 3
    window: int = 3
    decay: float = 0.8
    action_layers: tuple[int, ...] = tuple(range(16, 32))
    carry: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        check_keep(self.name, self.keep)
        check_boundaries(self.name, self.boundary)
        if self.boundary < 1 or self.window < 1:
            raise ConfigurationError(f"{self.name}: boundary and window must be >= 1")
        if not 0.0 < self.decay <= 1.0 or not 0.0 <= self.carry <= 1.0:
            raise ConfigurationError(f"{self.name}: decay and carry must lie in [0, 1], decay > 0")
        check_layers("action_layers", self.action_layers)
        if not self.action_layers:
            raise ConfigurationError(f"{self.name}: action_layers must name one layer at least")


@dataclass(frozen=True)
class ActionMaps:
    """Action scores of the last queries, newest first: float32 [V] each."""

    maps: tuple[torch.Tensor, ...]


def temporal_estimate(maps: tuple[torch.Tensor, ...], decay: float) -> torch.Tensor:
    """Sum of decay^i times the map of i queries ago (i = 1 is the newest, maps[0]): [V]."""
    weights = decay ** torch.arange(1, len(maps) + 1, device=maps[0].device, dtype=maps[0].dtype)
    return (torch.stack(maps) * weights[:, None]).sum(0)


def select_patches(
    semantic: torch.Tensor, action: torch.Tensor, features: torch.Tensor, count: int
) -> torch.Tensor:
    """``count`` indices, ascending: the diverse part of top(semantic) | top(action)."""
    candidates = torch.zeros(len(semantic), dtype=torch.bool, device=semantic.device)
    candidates[top_indices(semantic, count)] = True
    candidates[top_indices(action, count)] = True
    return farthest_first(features, count, candidates).sort().values


class VLAPrunerSession(DropSession):
    def __init__(self, context: QueryContext, config: VLAPrunerConfig) -> None:
        super().__init__(context)
        self.config = config
        self.boundary = scaled_boundary(config.boundary, context.depth)
        self.action_layers = scale_layers(config.action_layers, context.depth)
        self.count = kept_count(config.keep, self.layout.visual_tokens)
        history = context.history
        self.maps = history.maps if isinstance(history, ActionMaps) else ()
        self.warming_up = len(self.maps) < config.window
        self._embeddings: torch.Tensor | None = None
        self._action: torch.Tensor | None = None
        self._alive: torch.Tensor | None = None

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        if layer == 0:
            self._embeddings = state.hidden[0, self.patches(state.positions)]
        return super().before_layer(layer, state)

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        if layer in self.action_layers:
            self._collect(attention)
        if layer != self.boundary - 1 or self.warming_up:
            return
        if self.count < self.layout.visual_tokens:
            rows = span(range(self.layout.placeholders.start), attention.positions.device)
            semantic = mean_attention(attention, rows)[self.patches(attention.key_positions)]
            estimate = temporal_estimate(self.maps, self.config.decay)
            chosen = select_patches(semantic, estimate, self._embeddings, self.count)
            self.keep_patches(self.boundary, state, chosen)

    def _collect(self, attention: Attention) -> None:
        """Add this layer's attention from the read-out rows to the patches, 0 where dropped."""
        rows = span(self.layout.readout, attention.positions.device)
        alive = self.patches(attention.key_positions)
        scores = mean_attention(attention, rows)[alive]
        if self._action is None:
            self._action = scores.new_zeros(self.layout.visual_tokens)
            self._alive = torch.zeros_like(self._action, dtype=torch.bool)
        index = attention.key_positions[alive] - 1
        self._action = self._action.index_add(0, index, scores / len(self.action_layers))
        self._alive = self._alive.index_fill(0, index, True)

    def finish(self) -> SessionResult:
        action = self._action
        if self.config.carry and self.maps:
            action = torch.where(self._alive, action, self.config.carry * self.maps[0])
        maps = (action, *self.maps)[: self.config.window]
        return self.result(ActionMaps(maps), dense=self.warming_up)


class VLAPruner(Method):
    Config, Session = VLAPrunerConfig, VLAPrunerSession
