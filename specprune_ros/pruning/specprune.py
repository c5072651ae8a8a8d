"""SpecPrune-VLA as a session: static stage after the first layers, dynamic stage further down."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from specprune_ros.pruning.base import (
    Attention,
    PruneSession,
    QueryContext,
    SessionResult,
    Tokens,
)
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.dynamic import kept_count, lowest_dropped, updated_scores
from specprune_ros.pruning.sets import changed_patches, top_k_per_camera
from specprune_ros.pruning.similarity import patch_similarity
from specprune_ros.types import CameraTokens


@dataclass(frozen=True)
class GlobalHistory:
    """Scores of the previous query at the global layers: float32 [n_layers, n_cam, N]."""

    scores: torch.Tensor


class SpecPrune:
    """The method with its settings."""

    def __init__(self, config: SpecPruneConfig) -> None:
        self.config = config
        self.name = config.name

    def begin(self, context: QueryContext) -> PruneSession:
        return SpecPruneSession(context, self.config.scaled_to(context.depth))


class SpecPruneSession(PruneSession):
    """One query. ``alive`` [n_cam, N] is the truth about which patches are still there."""

    def __init__(self, context: QueryContext, config: SpecPruneConfig) -> None:
        super().__init__(context)
        self.config = config
        layout, device = context.layout, context.device
        self.shape = (len(layout.cameras), layout.patches_per_camera)
        self.budgets = [config.budgets.of(name, context.mode) for name in layout.cameras]
        self.dense = self._is_dense_query()
        self.alive = torch.ones(self.shape, dtype=torch.bool, device=device)
        empty = torch.zeros(self.shape, dtype=torch.bool, device=device)
        self.global_set = empty if self.dense else self._global_set(empty)
        self.dynamic_set = empty if self.dense else self._dynamic_set(empty)
        self.local_set = empty
        self._pending: torch.Tensor | None = None  # rows to keep at the next layer
        self._scores = torch.zeros(self.shape, dtype=torch.float64, device=device)
        self._dynamic_on = config.dynamic.enabled and not self.dense
        self._kept_static: list[int] | None = None
        self._kept_dynamic: list[list[int]] = []
        self._global_scores: dict[int, torch.Tensor] = {}
        self._instruction = _positions(layout.instruction, device)
        self._readout = _positions(layout.readout, device)

    # The three sets ------------------------------------------------------------------------

    def _is_dense_query(self) -> bool:
        number, config = self.context.query_number, self.config
        if number == 0:
            return config.first_query == "dense"
        return config.refresh_every > 0 and number % config.refresh_every == 0

    def _global_set(self, empty: torch.Tensor) -> torch.Tensor:
        history = self.context.history
        if history is None or not self.config.static.use_global:
            return empty
        chosen = empty.clone()
        layers = len(history.scores)
        for scores in history.scores:
            chosen |= top_k_per_camera(scores, [b.global_ // layers for b in self.budgets])
        return chosen

    def _dynamic_set(self, empty: torch.Tensor) -> torch.Tensor:
        static, context = self.config.static, self.context
        references = [context.step_frame]
        if static.compare_last_query:
            references.append(context.query_frame)
        present = [r for r in references if r is not None]
        # Without an earlier frame nothing is known to have moved: never compare with itself.
        if not present or not static.use_dynamic:
            return empty
        similarity = patch_similarity(
            context.frame, present, self.layout.grid, static.similarity
        ).to(context.device)
        chosen = [
            changed_patches(row, static.tau(name), budget.dynamic, static.dynamic_rule)
            for row, name, budget in zip(similarity, self.layout.cameras, self.budgets)
        ]
        return torch.stack(chosen)

    # Hooks of the decoder ------------------------------------------------------------------

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        if self._pending is None:
            return state
        keep, self._pending = self._pending, None
        return state.select(keep)

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        static, dynamic = self.config.static, self.config.dynamic
        if layer in static.global_layers:
            self._remember(layer, attention)
        if self.dense:
            return
        if layer in static.local_layers:
            self._speculate(static.local_layers.index(layer), state, attention)
        if self._dynamic_on and layer in dynamic.update_layers:
            self._update_scores(attention)
        if self._dynamic_on and layer in dynamic.prune_layers:
            self._prune_dynamic(state)

    def _speculate(self, step: int, state: Tokens, attention: Attention) -> None:
        """V_local: top-K of this layer's scores among the survivors; drop after each layer."""
        static = self.config.static
        last = step == len(static.local_layers) - 1
        interim = self.local_set
        if static.use_local:
            scores = self._text_scores(attention)
            wanted = [b.local for b in self.budgets]
            self.local_set = self.local_set | top_k_per_camera(scores, wanted)
            wide = [k * static.interim_factor for k in wanted]
            interim = self.local_set | top_k_per_camera(scores, wide)
        kept = self.global_set | self.dynamic_set | (self.local_set if last else interim)
        self.alive = self.alive & kept
        self._drop_dead(state)
        if last:
            self._kept_static = self.alive.sum(1).tolist()

    def _drop_dead(self, state: Tokens) -> None:
        """Mark the rows of ``state`` that stay: everything but the dead patches."""
        keep = torch.ones(self.layout.length, dtype=torch.bool, device=state.positions.device)
        keep[1 : 1 + self.layout.visual_tokens] = self.alive.flatten()
        self._pending = torch.nonzero(keep[state.positions]).squeeze(1)

    # Scores --------------------------------------------------------------------------------

    def _visual_keys(self, attention: Attention) -> torch.Tensor:
        """Columns of the probe that are patches; their positions are ``key_positions[columns]``."""
        positions = attention.key_positions
        first, end = self.layout.visual.start, self.layout.visual.stop
        return torch.nonzero((positions >= first) & (positions < end)).squeeze(1)

    def _scatter(self, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Values of the alive patches -> [n_cam, N], -inf elsewhere."""
        full = torch.full(
            (self.layout.visual_tokens,), -torch.inf, dtype=values.dtype, device=values.device
        )
        full[positions - 1] = values
        return full.reshape(self.shape)

    def _rows(self, attention: Attention, queries: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Head-averaged attention [Q, n] of these rows to the alive patches, and their positions."""
        columns = self._visual_keys(attention)
        weights = attention.weights(queries)[:, :, columns]
        return weights.mean(0), attention.key_positions[columns]

    def _text_scores(self, attention: Attention) -> torch.Tensor:
        """Eq. 1 between the instruction and the patches, either direction: [n_cam, N]."""
        if self.config.static.direction == "text_to_vision":
            rows, positions = self._rows(attention, self._instruction)
            return self._scatter(rows.mean(0), positions)
        positions = attention.key_positions[self._visual_keys(attention)]
        columns = torch.searchsorted(attention.key_positions, self._instruction)
        weights = attention.weights(positions)[:, :, columns]
        return self._scatter(weights.mean((0, 2)), positions)

    def _remember(self, layer: int, attention: Attention) -> None:
        """Scores for the next query's V_global; patches not alive keep a decayed old score."""
        static = self.config.static
        if static.global_rows == "readout":
            rows, positions = self._rows(attention, self._readout)
            scores = self._scatter(rows.mean(0), positions)
        else:
            scores = self._text_scores(attention)
        previous = torch.zeros_like(scores)
        history = self.context.history
        if history is not None:
            previous = history.scores[static.global_layers.index(layer)]
        self._global_scores[layer] = torch.where(
            torch.isfinite(scores), scores, static.carry * previous
        )

    def _update_scores(self, attention: Attention) -> None:
        rows, positions = self._rows(attention, self._readout)
        flat = self._scores.flatten()
        index = positions - 1
        flat[index] = updated_scores(flat[index], rows, self.config.dynamic)
        self._scores = flat.reshape(self.shape)

    def _prune_dynamic(self, state: Tokens) -> None:
        visual = int(self.alive.sum())
        keep = kept_count(visual, len(state.positions), self.config.dynamic)
        if keep < visual:
            index = torch.nonzero(self.alive.flatten()).squeeze(1)
            mask = lowest_dropped(
                self._scores.flatten()[index], self.global_set.flatten()[index], keep
            )
            alive = torch.zeros_like(self.alive).flatten()
            alive[index[mask]] = True
            self.alive = alive.reshape(self.shape)
            self._drop_dead(state)
        elif visual <= self.config.dynamic.floor:
            self._dynamic_on = False  # the floor binds: scoring on would be for nothing
        self._kept_dynamic.append(self.alive.sum(1).tolist())

    def finish(self) -> SessionResult:
        n = self.layout.patches_per_camera
        sizes = [s.sum(1).tolist() for s in (self.global_set, self.dynamic_set, self.local_set)]
        kept_static = self._kept_static or [n] * self.shape[0]
        cameras = tuple(
            CameraTokens(
                name,
                n,
                *(size[c] for size in sizes),
                kept_static[c],
                tuple(stage[c] for stage in self._kept_dynamic),
            )
            for c, name in enumerate(self.layout.cameras)
        )
        layers = self.config.static.global_layers
        scores = torch.stack([self._global_scores[layer] for layer in layers])
        done = len(self._kept_dynamic)
        return SessionResult(
            cameras,
            GlobalHistory(scores),
            dense_refresh=self.dense,
            dynamic_layers=self.config.dynamic.prune_layers[:done],
        )


def _positions(span: range, device: torch.device) -> torch.Tensor:
    return torch.arange(span.start, span.stop, device=device)
