"""SpecPrune-VLA as a session: static stage after the first layers, dynamic stage further down."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

import torch

from specprune_ros.pruning.base import (
    Attention,
    PruneSession,
    QueryContext,
    SessionResult,
    Tokens,
)
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.dynamic import (
    CONFIDENCE,
    highest_scored,
    kept_count,
    updated_scores,
)
from specprune_ros.pruning.schedule import Schedule
from specprune_ros.pruning.sets import changed_patches, split_evenly, top_k_per_camera
from specprune_ros.pruning.similarity import patch_similarity
from specprune_ros.types import CameraTokens, Mode


@dataclass(frozen=True)
class QueryHistory:
    """What a query leaves to the next one.

    layers, scores: float32 [n_layers, n_cam, N] at the global layers; -inf for a patch without
    one. mode: of the query. confidence: by layer, where it is kept for the episode.
    """

    layers: tuple[int, ...]
    scores: torch.Tensor
    mode: Mode = Mode.COARSE
    confidence: Mapping[int, torch.Tensor] = field(default_factory=dict)


class SpecPrune:
    """The method with its settings."""

    def __init__(self, config: SpecPruneConfig) -> None:
        self.config = config
        self.name = config.name

    def begin(self, context: QueryContext) -> PruneSession:
        return SpecPruneSession(context, self.config)


class SpecPruneSession(PruneSession):
    """One query. ``alive`` [n_cam, N] is the truth about which patches are still there."""

    def __init__(self, context: QueryContext, config: SpecPruneConfig) -> None:
        super().__init__(context)
        self.config = config
        self.schedule = config.schedule(context.depth)
        layout, device = context.layout, context.device
        self.shape = (len(layout.cameras), layout.patches_per_camera)
        self.budgets = [config.budgets.of(name, context.mode) for name in layout.cameras]
        self.history = usable_history(context, self.schedule)
        self.dense = is_dense_query(config, context, self.history)
        self.alive = torch.ones(self.shape, dtype=torch.bool, device=device)
        empty = torch.zeros(self.shape, dtype=torch.bool, device=device)
        self.global_set = empty if self.dense else self._global_set(empty)
        self.dynamic_set = empty if self.dense else self._dynamic_set(empty)
        self.local_set = empty
        self._pending: torch.Tensor | None = None  # rows to keep at the next layer
        self._scores = torch.zeros(self.shape, dtype=torch.float64, device=device)
        self._dynamic_on = bool(self.schedule.prune) and not self.dense
        self._kept_static: list[int] | None = None
        self._kept_dynamic: list[list[int]] = []
        self._global_scores: dict[int, torch.Tensor] = {}
        self._confidence = dict(self.history.confidence) if self.history else {}
        self._instruction = _positions(layout.instruction, device)
        self._readout = _positions(layout.readout, device)
        self._patches = _positions(layout.visual, device)  # positions of those alive, ascending
        self._seen: tuple[int, torch.Tensor, torch.Tensor] | None = None

    # The three sets ------------------------------------------------------------------------

    def _global_set(self, empty: torch.Tensor) -> torch.Tensor:
        """V_global: the union over the global layers of each one's share of the budget."""
        history, static = self.history, self.config.static
        if history is None or not static.use_global:
            return empty
        chosen, every = empty.clone(), global_shares(self.config, self.context, history)
        for scores, shares in zip(history.scores, every):
            chosen |= top_k_per_camera(scores, shares)
        return chosen

    def _dynamic_set(self, empty: torch.Tensor) -> torch.Tensor:
        """V_dynamic: patches that changed since the frames looked back at."""
        static, context = self.config.static, self.context
        references = [context.step_frame]
        if static.compare_last_query:
            references.append(context.query_frame)
        present = [r.to(context.device) for r in references if r is not None]
        # Without an earlier frame nothing is known to have moved: never compare with itself.
        if not present or not static.use_dynamic:
            return empty
        similarity = patch_similarity(
            context.frame.to(context.device), present, self.layout.grid, static.similarity
        )
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
        schedule = self.schedule
        if layer in schedule.global_:
            self._remember(layer, attention)
        if self.dense:
            return
        if layer in schedule.local:
            self._speculate(layer == schedule.local[-1], state, attention)
        if self._dynamic_on and layer in schedule.update:
            self._update_scores(layer, attention)
        if self._dynamic_on and layer in schedule.prune:
            self._prune_dynamic(state)

    def _speculate(self, last: bool, state: Tokens, attention: Attention) -> None:
        """V_local: top-K of this layer's scores among the survivors; drop after each layer."""
        static = self.config.static
        interim = self.local_set
        if static.use_local:
            scores = self._text_scores(attention)
            wanted = [budget.local for budget in self.budgets]
            wide = [k * static.interim_factor for k in wanted]
            chosen, interim = top_k_per_camera(scores, wanted, wide)
            self.local_set = self.local_set | chosen
            interim = interim | self.local_set
        if static.interim_factor == 0 and not last:
            return
        kept = self.global_set | self.dynamic_set | (self.local_set if last else interim)
        self.alive = self.alive & kept
        self._drop_dead(state)
        if last:
            self._kept_static = self.alive.sum(1).tolist()

    def _drop_dead(self, state: Tokens) -> None:
        """Mark the rows of ``state`` that stay: everything but the dead patches."""
        others = self.layout.length - self.layout.visual_tokens
        rows = len(state.positions)
        # BOS is row 0, then come the patches, then the rest.
        patches = state.positions[1 : 1 + rows - others]
        alive = self.alive.flatten().index_select(0, patches - self.layout.visual.start)
        chosen = torch.nonzero(alive).squeeze(1)
        self._patches = patches.index_select(0, chosen)
        rest = torch.arange(1 + rows - others, rows, device=chosen.device)
        self._pending = torch.cat([chosen.new_zeros(1), chosen + 1, rest])

    # Scores --------------------------------------------------------------------------------

    def _text_scores(self, attention: Attention) -> torch.Tensor:
        """Eq. 1 between the instruction and the patches, either direction: [n_cam, N]."""
        patches = self._patches
        if self.config.static.direction == "text_to_vision":
            weights = attention.weights(self._instruction, patches).mean((0, 1))
        else:
            weights = attention.weights(patches, self._instruction).mean((0, 2))
        return self._scatter(weights, patches)

    def _readout_rows(self, layer: int, attention: Attention) -> torch.Tensor:
        """What the rows that the action head reads see, mean over heads, [Q, n alive].

        Recomputed only for another layer, or after a drop.
        """
        patches = self._patches
        if self._seen is None or self._seen[0] != layer or self._seen[1] is not patches:
            self._seen = layer, patches, attention.weights(self._readout, patches).mean(0)
        return self._seen[2]

    def _scatter(self, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Values of patches -> [n_cam, N], -inf elsewhere."""
        full = torch.full(
            (self.layout.visual_tokens,), -torch.inf, dtype=values.dtype, device=values.device
        )
        full.index_copy_(0, positions - self.layout.visual.start, values)
        return full.reshape(self.shape)

    def _remember(self, layer: int, attention: Attention) -> None:
        """Scores for the next query's V_global; patches not alive keep a decayed old score."""
        static = self.config.static
        if static.global_rows == "readout":
            scores = self._scatter(self._readout_rows(layer, attention).mean(0), self._patches)
        else:
            scores = self._text_scores(attention)
        if self.history is not None and static.carry > 0:
            previous = self.history.scores[self.schedule.global_.index(layer)]
            scores = torch.where(torch.isfinite(scores), scores, static.carry * previous)
        self._global_scores[layer] = scores

    def _update_scores(self, layer: int, attention: Attention) -> None:
        dynamic, patches = self.config.dynamic, self._patches
        if not len(patches):
            return  # nothing to score, and no confidence to keep for the episode
        rows = self._readout_rows(layer, attention)
        confidence = self._confidence.get(layer)
        if confidence is None:
            confidence = CONFIDENCE[dynamic.confidence](rows)
            if dynamic.confidence_per == "episode":
                self._confidence[layer] = confidence
        flat, index = self._scores.flatten(), patches - self.layout.visual.start
        scores = updated_scores(flat.index_select(0, index), rows, confidence, dynamic)
        self._scores = flat.index_copy(0, index, scores).reshape(self.shape)

    def _prune_dynamic(self, state: Tokens) -> None:
        visual = len(self._patches)
        others = self.layout.length - self.layout.visual_tokens
        keep = kept_count(visual, visual + others, self.config.dynamic)
        if keep < visual:
            index = self._patches - self.layout.visual.start
            scores, member = (
                x.flatten().index_select(0, index) for x in (self._scores, self.global_set)
            )
            alive = torch.zeros(self.alive.numel(), dtype=torch.bool, device=index.device)
            alive.index_copy_(0, index, highest_scored(scores, member, keep))
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
        layers = self.schedule.global_
        history = QueryHistory(
            layers,
            torch.stack([self._global_scores[layer] for layer in layers]),
            self.context.mode,
            self._confidence,
        )
        done = len(self._kept_dynamic)
        return SessionResult(
            cameras,
            history,
            dense_refresh=self.dense,
            dynamic_layers=self.schedule.prune[:done],
        )


def usable_history(context: QueryContext, schedule: Schedule) -> QueryHistory | None:
    """The previous query's, unless the settings or the cameras have changed since."""
    history, layout = context.history, context.layout
    if not isinstance(history, QueryHistory) or history.layers != schedule.global_:
        return None
    shape = (len(layout.cameras), layout.patches_per_camera)
    return history if history.scores.shape[1:] == shape else None


def is_dense_query(
    config: SpecPruneConfig, context: QueryContext, history: QueryHistory | None
) -> bool:
    """Whether the query keeps everything on purpose."""
    number = context.query_number
    if config.first_query == "dense" and history is None:
        return True
    return number > 0 and config.refresh_every > 0 and number % config.refresh_every == 0


def global_shares(
    config: SpecPruneConfig, context: QueryContext, history: QueryHistory
) -> list[list[int]]:
    """Each global layer's share of V_global's budget, per camera."""
    previous = config.static.global_budget == "previous"
    mode = history.mode if previous else context.mode
    budgets = [config.budgets.of(name, mode) for name in context.layout.cameras]
    shares = [split_evenly(budget.global_, len(history.layers)) for budget in budgets]
    return [list(layer) for layer in zip(*shares)]


def _positions(span: range, device: torch.device) -> torch.Tensor:
    return torch.arange(span.start, span.stop, device=device)
