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


@dataclass(frozen=True)
class _Drop:
    """What stays after a layer. chosen: of its patches, as indices into them. rows: of all its
    rows, as indices into those."""

    chosen: torch.Tensor
    rows: torch.Tensor


class SpecPrune:
    """The method with its settings."""

    def __init__(self, config: SpecPruneConfig) -> None:
        self.config = config
        self.name = config.name

    def begin(self, context: QueryContext) -> PruneSession:
        return SpecPruneSession(context, self.config)


class SpecPruneSession(PruneSession):
    """One query. ``patches`` [n] is the truth about which patches are still there, by position.

    On a CPU that works for others in between, each small operation takes longer than what it
    computes: there are few of them here, and scores are kept for the patches alive only.
    """

    def __init__(self, context: QueryContext, config: SpecPruneConfig) -> None:
        super().__init__(context)
        self.config = config
        self.schedule = config.schedule(context.depth)
        layout, device = context.layout, context.device
        self.shape = (len(layout.cameras), layout.patches_per_camera)
        self._others = layout.length - layout.visual_tokens  # rows that are no patches
        self.budgets = [config.budgets.of(name, context.mode) for name in layout.cameras]
        self.history = usable_history(context, self.schedule)
        self.dense = is_dense_query(config, context, self.history)
        empty = torch.zeros(self.shape, dtype=torch.bool, device=device)
        self.global_set = empty if self.dense else self._global_set(empty)
        self.dynamic_set = empty if self.dense else self._dynamic_set(empty)
        self.local_set = empty
        self._order = torch.arange(layout.length, device=device)
        self.patches = self._order[layout.visual.start : layout.visual.stop]
        self._scores = torch.zeros(layout.visual_tokens, dtype=torch.float64, device=device)
        self._member = self.global_set.flatten()  # both of ``patches``
        self._pending: _Drop | None = None
        self._speculated: list[torch.Tensor] = []  # scores [n_cam, N] of the local layers so far
        self._dynamic_on = bool(self.schedule.prune) and not self.dense
        self._kept_static = self.patches  # after the static stage
        self._kept_dynamic: list[torch.Tensor] = []  # and after each dynamic one
        self._global_scores: dict[int, torch.Tensor] = {}
        self._confidence = dict(self.history.confidence) if self.history else {}
        self._seen: tuple[int, torch.Tensor, torch.Tensor] | None = None

    # The three sets ------------------------------------------------------------------------

    def _global_set(self, empty: torch.Tensor) -> torch.Tensor:
        """V_global: the union over the global layers of each one's share of the budget."""
        history, static = self.history, self.config.static
        if history is None or not static.use_global:
            return empty
        shares = global_shares(self.config, self.context, history)
        return top_k_per_camera(history.scores, shares).any(0)

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
        drop, self._pending = self._pending, None
        return state.select(drop.rows)

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
        """V_local: the union of the top-K of each local layer's scores among the survivors; drop
        after the last layer, or after each."""
        static = self.config.static
        if static.use_local:
            self._speculated.append(self._text_scores(attention))
        if static.interim_factor == 0 and not last:
            return
        kept = self.global_set | self.dynamic_set
        if self._speculated:
            wanted = [budget.local for budget in self.budgets]
            chosen = top_k_per_camera(torch.stack(self._speculated), wanted).any(0)
            self.local_set = self.local_set | chosen
            kept = kept | self.local_set
            if not last:
                wide = [k * static.interim_factor for k in wanted]
                kept = kept | top_k_per_camera(self._speculated[-1], wide)
            self._speculated.clear()
        self._drop(state, torch.nonzero(self._of_patches(kept)).squeeze(1))
        if last:
            self._kept_static = self.patches

    def _drop(self, state: Tokens, chosen: torch.Tensor) -> None:
        """Of the patches stay the ``chosen`` ones (indices, ascending), of the rest everything."""
        rows = len(state.positions)
        self.patches = self.patches.index_select(0, chosen)
        self._scores = self._scores.index_select(0, chosen)
        self._member = self._member.index_select(0, chosen)
        # BOS is row 0, then come the patches, then the rest.
        first, rest = self._order[:1], self._order[1 + rows - self._others : rows]
        self._pending = _Drop(chosen, torch.cat([first, chosen + 1, rest]))

    # Scores --------------------------------------------------------------------------------

    def _rows(self, span: range, attention: Attention) -> slice:
        """Where rows behind the patches are among those of this layer: none of them ever goes."""
        gone = self.layout.length - len(attention.positions)
        return slice(span.start - gone, span.stop - gone)

    def _columns(self, attention: Attention) -> slice:
        """Where the patches of a layer are among its rows: behind BOS."""
        return slice(1, 1 + len(attention.positions) - self._others)

    def _text_scores(self, attention: Attention) -> torch.Tensor:
        """Eq. 1 between the instruction and the patches, either direction: [n_cam, N]."""
        text = self._rows(self.layout.instruction, attention)
        patches = self._columns(attention)
        if self.config.static.direction == "text_to_vision":
            weights = attention.weights(text, patches).mean((0, 1))
        else:
            weights = attention.weights(patches, text).mean((0, 2))
        return self._scatter(weights)

    def _readout_rows(self, layer: int, attention: Attention) -> torch.Tensor:
        """What the rows that the action head reads see, mean over heads, [Q, n alive].

        Recomputed only for another layer, or after a drop.
        """
        if self._seen is None or self._seen[0] != layer or self._seen[1] is not self.patches:
            rows = self._rows(self.layout.readout, attention)
            seen = attention.weights(rows, self._columns(attention)).mean(0)
            if self._pending is not None:  # some of this layer's go after it
                seen = seen.index_select(1, self._pending.chosen)
            self._seen = layer, self.patches, seen
        return self._seen[2]

    def _scatter(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the patches alive -> [n_cam, N], -inf elsewhere."""
        if len(values) < self.layout.visual_tokens:
            full = torch.full(
                (self.layout.visual_tokens,), -torch.inf, dtype=values.dtype, device=values.device
            )
            values = full.index_copy_(0, self.patches - self.layout.visual.start, values)
        return values.reshape(self.shape)

    def _of_patches(self, values: torch.Tensor) -> torch.Tensor:
        """Values [n_cam, N] -> of the patches alive."""
        flat = values.flatten()
        if len(self.patches) == len(flat):
            return flat
        return flat.index_select(0, self.patches - self.layout.visual.start)

    def _remember(self, layer: int, attention: Attention) -> None:
        """Scores for the next query's V_global; patches not alive keep a decayed old score."""
        static = self.config.static
        if static.global_rows == "readout":
            scores = self._scatter(self._readout_rows(layer, attention).mean(0))
        else:
            scores = self._text_scores(attention)
        if self.history is not None and static.carry > 0:
            previous = self.history.scores[self.schedule.global_.index(layer)]
            scores = torch.where(scores > -torch.inf, scores, static.carry * previous)
        self._global_scores[layer] = scores

    def _update_scores(self, layer: int, attention: Attention) -> None:
        dynamic = self.config.dynamic
        if not len(self.patches):
            return  # nothing to score, and no confidence to keep for the episode
        rows = self._readout_rows(layer, attention)
        confidence = self._confidence.get(layer)
        if confidence is None:
            confidence = CONFIDENCE[dynamic.confidence](rows)
            if dynamic.confidence_per == "episode":
                self._confidence[layer] = confidence
        self._scores = updated_scores(self._scores, rows, confidence, dynamic)

    def _prune_dynamic(self, state: Tokens) -> None:
        visual = len(self.patches)
        keep = kept_count(visual, visual + self._others, self.config.dynamic)
        if keep < visual:
            self._drop(state, highest_scored(self._scores, self._member, keep))
        elif visual <= self.config.dynamic.floor:
            self._dynamic_on = False  # the floor binds: scoring on would be for nothing
        self._kept_dynamic.append(self.patches)

    def finish(self) -> SessionResult:
        n = self.layout.patches_per_camera
        sizes = torch.stack([self.global_set, self.dynamic_set, self.local_set]).sum(2).T.tolist()
        # Patches ascend, camera by camera: how many lie before the first one of each.
        edges = self._order[:: n][: self.shape[0] + 1] + self.layout.visual.start
        stages = [self._kept_static, *self._kept_dynamic]
        counts = torch.stack([torch.searchsorted(patches, edges) for patches in stages])
        static, *dynamic = counts.diff().tolist()
        cameras = tuple(
            CameraTokens(name, n, *sizes[c], static[c], tuple(stage[c] for stage in dynamic))
            for c, name in enumerate(self.layout.cameras)
        )
        layers = self.schedule.global_
        history = QueryHistory(
            layers,
            torch.stack([self._global_scores[layer] for layer in layers]),
            self.context.mode,
            self._confidence,
        )
        return SessionResult(
            cameras,
            history,
            dense_refresh=self.dense,
            dynamic_layers=self.schedule.prune[: len(dynamic)],
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
