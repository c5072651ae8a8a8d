"""SpecPrune's stages with shapes that do not depend on the data, beside the exact ones.

The K most urgent patches are kept (see ``urgency``): exactly the union where it has K members;
otherwise the next best ones fill up, or the least urgent ones are trimmed. Nothing here reads a
value on the host, and no shape depends on one. What no layer waits for is done beside them.
"""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from specprune_ros.pruning.base import Attention, Tokens
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.lengths import FixedLengths, FixedShape
from specprune_ros.pruning.masked import masked_confidence, masked_rank_weights
from specprune_ros.pruning.schedule import Schedule
from specprune_ros.pruning.similarity import patch_similarity
from specprune_ros.pruning.urgency import ranks, urgency


@dataclass(frozen=True)
class FixedInputs:
    """What a query brings, as tensors on the device. B cameras of N patches, P rows.

    frame: uint8 [B, S, S, 3]; references: uint8 [R, B, S, S, 3] of which ``has_reference`` [R] bool
    says which count. history: float32 [G, B, N], -inf for a patch without a score.
    global_budgets [G, B], dynamic_budgets, local_budgets [B]: float32. tau: float64 [B].
    instruction: int64 [I] positions; those with 1 in ``instruction_real`` float32 [I] count.
    readout: int64 [A]. real: bool [P], False for padding. confidence: float64 [layers],
    those kept of an earlier query, NaN where there is none.
    """

    frame: torch.Tensor
    references: torch.Tensor
    has_reference: torch.Tensor
    history: torch.Tensor
    global_budgets: torch.Tensor
    dynamic_budgets: torch.Tensor
    local_budgets: torch.Tensor
    tau: torch.Tensor
    instruction: torch.Tensor
    instruction_real: torch.Tensor
    readout: torch.Tensor
    real: torch.Tensor
    confidence: torch.Tensor


class Side(Protocol):
    """Work beside the network's own: a second stream where there is one."""

    def __call__(self, *used: torch.Tensor) -> AbstractContextManager:
        """Context in which work goes to the side; it may read what exists by now, and ``used``."""

    def wait(self) -> None:
        """What follows sees the results of the side."""


class Inline:
    """No side: everything in order."""

    def __call__(self, *used: torch.Tensor) -> AbstractContextManager:
        return nullcontext()

    def wait(self) -> None:
        pass


@dataclass(frozen=True)
class FixedOutputs:
    """What a query leaves, as tensors. stages: positions int64 that left each stage that dropped
    rows, with the layer each follows. sizes: int64 [5, B], members of V_global, V_dynamic and
    V_local, then patches of the union that were trimmed, and patches beyond it that were filled in.
    history, confidence as in FixedInputs, for the next query.
    """

    stages: tuple[tuple[int, torch.Tensor], ...]
    sizes: torch.Tensor
    history: torch.Tensor
    confidence: torch.Tensor


@dataclass(frozen=True)
class _Drop:
    """rows [n] to keep, ascending, their positions [n], and which patches those are [B, N]."""

    rows: torch.Tensor
    positions: torch.Tensor
    alive: torch.Tensor


class FixedSession:
    """One query; asked by the decoder at the points where an exact session is asked.

    lengths None: keeps everything, and only remembers what the next query looks back at.
    """

    def __init__(
        self,
        config: SpecPruneConfig,
        schedule: Schedule,
        shape: FixedShape,
        lengths: FixedLengths | None,
        inputs: FixedInputs,
        side: Side | None = None,
    ) -> None:
        self.config, self.schedule, self.shape = config, schedule, shape
        self.lengths, self.inputs = lengths, inputs
        self.side = side or Inline()
        self.grid = (shape.cameras, shape.patches)
        self._next: _Drop | None = None  # what the next layer shall not see
        self._prepared: tuple[int, _Drop] | None = None  # that of a pruning layer to come
        self._rows = shape.length
        self._stages: list[tuple[int, torch.Tensor]] = []
        self._remembered: dict[int, torch.Tensor] = {}
        self._confidence = inputs.confidence.unbind(0)
        self._readout_scores: tuple[int, torch.Tensor] | None = None
        self._last_drop = _last_drop(schedule, lengths)
        device = inputs.real.device
        with self.side(inputs.history, inputs.frame, inputs.references):
            infinite = torch.full(self.grid, torch.inf, device=device)
            self._local = self._global = self._dynamic = infinite
            if lengths is not None:
                self._global, self._dynamic = self._global_urgency(), self._dynamic_urgency()
            self._before = torch.minimum(self._global, self._dynamic)
            self._alive = torch.ones(self.grid, dtype=torch.bool, device=device)
            self._scores = torch.zeros(shape.length, dtype=torch.float64, device=device)
            # Keys of the rows that are no patches: first of all, and padding last.
            self._first = torch.where(inputs.real, -1.0, torch.inf)
            self._best = torch.where(inputs.real, torch.inf, -torch.inf).double()
        self._counted: list[tuple[torch.Tensor, torch.Tensor]] = []  # union, kept; per stage

    # The sets -------------------------------------------------------------------------------

    def _global_urgency(self) -> torch.Tensor:
        """Best over the global layers of the previous query's ranks, float32 [B, N]."""
        if not self.config.static.use_global:
            return self._local
        budgets = self.inputs.global_budgets[..., None]
        return urgency(self.inputs.history, budgets).amin(0)

    def _dynamic_urgency(self) -> torch.Tensor:
        static, inputs = self.config.static, self.inputs
        if not static.use_dynamic:
            return self._local
        each = torch.stack([
            patch_similarity(inputs.frame, [reference], self.shape_grid, static.similarity)
            for reference in inputs.references
        ])
        present = inputs.has_reference[:, None, None]
        similarity = torch.where(present, each, torch.inf).amin(0)  # [B, N]
        moved = similarity < inputs.tau[:, None]
        budgets = inputs.dynamic_budgets[:, None]
        if static.dynamic_rule == "lowest":
            return urgency(torch.where(moved, -similarity, -torch.inf), budgets)
        # All but the most similar ones: at least as many as the budget, and all that moved.
        places = self.shape.patches - 1 - ranks(similarity)
        found = (places + 1) / torch.maximum(budgets, moved.sum(1, keepdim=True).float())
        return torch.where(inputs.has_reference.any(), found, torch.inf)

    @property
    def shape_grid(self) -> int:
        return round(self.shape.patches**0.5)

    # Points of the decoder ------------------------------------------------------------------

    def skips(self, layer: int) -> bool:
        return False

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        if self._next is None:
            return state
        rows, self._next = self._next.rows, None
        return state.select(rows, padded=False)

    def keys_values(
        self, layer: int, state: Tokens, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return key, value, state.positions

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        schedule = self.schedule
        if layer in schedule.global_:
            with self.side(attention.query, attention.key, attention.positions):
                self._remembered[layer] = self._to_remember(layer, attention)
        if self.lengths is None:
            return
        if layer in schedule.local:
            self.side.wait()
            self._speculate(layer, state, attention)
        # Without a drop to come, only a confidence that is kept for the episode is of use.
        wanted = layer <= self._last_drop or self.config.dynamic.confidence_per == "episode"
        if schedule.prune and layer in schedule.update and wanted:
            with self.side(attention.query, attention.key, attention.positions):
                self._update_scores(layer, attention)
                self._prepare_prune(layer, state)
        if layer in schedule.prune:
            self._prune(layer, state)

    # Static stage ---------------------------------------------------------------------------

    def _speculate(self, layer: int, state: Tokens, attention: Attention) -> None:
        static, inputs, schedule = self.config.static, self.inputs, self.schedule
        last, wide = layer == schedule.local[-1], None
        if static.use_local:
            places = urgency(self._text_scores(attention), 1.0)  # ranks from 1, inf without a score
            budgets = inputs.local_budgets[:, None]
            self._local = torch.minimum(self._local, places / budgets)
            wide = places / (budgets * static.interim_factor)
        if static.interim_factor == 0 and not last:
            return
        asked = torch.minimum(self._before, self._local)
        if wide is not None and not last:
            asked = torch.minimum(asked, wide)
        before, rows = self._alive, self.lengths.static
        if not last:
            rows = self.lengths.interim[schedule.local.index(layer)]
        if rows < self._rows:
            # Other rows come first, then patches by urgency, the lower position among equals.
            keys = self._by_position(asked, self._first).index_select(0, state.positions)
            order = torch.sort(keys, stable=True).indices
            self._take(layer, self._drop(state, order[:rows]))
        self._counted.append(((asked <= 1) & before, self._alive))

    def _drop(self, state: Tokens, chosen: torch.Tensor) -> _Drop:
        rows = torch.sort(chosen).values
        positions = state.positions.index_select(0, rows)
        alive = torch.zeros(self.shape.length, dtype=torch.bool, device=positions.device)
        return _Drop(rows, positions, self._visual(alive.index_fill_(0, positions, True)))

    def _take(self, layer: int, drop: _Drop) -> None:
        self._next, self._alive, self._rows = drop, drop.alive, len(drop.rows)
        self._stages.append((layer, drop.positions))

    # Scores ---------------------------------------------------------------------------------

    def _text_scores(self, attention: Attention) -> torch.Tensor:
        """Mean attention between the instruction and the patches, [B, N]; -inf where not alive."""
        instruction, real = self.inputs.instruction, self.inputs.instruction_real
        if self.config.static.direction == "text_to_vision":
            weights = attention.weights(instruction)  # [H, I, m]
            sums = (weights * real[:, None]).sum((0, 1))
        else:
            weights = attention.weights(attention.positions, instruction)  # [H, m, I]
            sums = (weights * real).sum((0, 2))
        return self._alive_only(sums / (len(weights) * real.sum()), attention)

    def _readout_rows(self, layer: int, attention: Attention) -> torch.Tensor:
        """Mean over heads of the rows that the action head reads, [A, m]; once per layer."""
        if self._readout_scores is None or self._readout_scores[0] != layer:
            self._readout_scores = layer, attention.weights(self.inputs.readout).mean(0)
        return self._readout_scores[1]

    def _to_remember(self, layer: int, attention: Attention) -> torch.Tensor:
        static = self.config.static
        if static.global_rows == "readout":
            scores = self._alive_only(self._readout_rows(layer, attention).mean(0), attention)
        else:
            scores = self._text_scores(attention)
        if static.carry > 0:
            old = self.inputs.history[self.schedule.global_.index(layer)]
            scores = torch.where(torch.isfinite(scores), scores, static.carry * old)
        return scores

    def _alive_only(self, values: torch.Tensor, attention: Attention) -> torch.Tensor:
        """Values [m] of the rows -> [B, N], -inf for patches that are not among them."""
        full = torch.full(
            (self.shape.length,), -torch.inf, dtype=values.dtype, device=values.device
        )
        return self._visual(full.index_copy(0, attention.positions, values))

    # Dynamic stage --------------------------------------------------------------------------

    def _update_scores(self, layer: int, attention: Attention) -> None:
        dynamic, shape = self.config.dynamic, self.shape
        positions = attention.positions
        visual = (positions >= 1) & (positions <= shape.visual)
        if layer in self.schedule.local:  # what this layer's speculation dropped does not count
            alive = self._by_position(self._alive, self.inputs.real)
            visual = visual & alive.index_select(0, positions)
        rows = torch.where(visual, self._readout_rows(layer, attention), 0.0)  # [A, m]
        confidence = masked_confidence(rows, visual, dynamic.confidence)
        if dynamic.confidence_per == "episode":
            index = self.schedule.update.index(layer)
            kept = self._confidence[index]
            confidence = torch.where(torch.isnan(kept), confidence, kept)
            self._confidence = (*self._confidence[:index], confidence,
                                *self._confidence[index + 1 :])
        weights = masked_rank_weights(rows.mean(0), visual, dynamic.rank_slope)
        old = self._scores.index_select(0, positions)
        new = (1 - dynamic.beta) * old + dynamic.beta * weights * confidence
        self._scores = self._scores.index_copy(0, positions, torch.where(visual, new, 0.0))

    def _prepare_prune(self, layer: int, state: Tokens) -> None:
        """After the last update before a pruning layer: choose while the layers in between run."""
        schedule = self.schedule
        to_come = next((p for p in schedule.prune if p >= layer), None)
        if to_come is None or layer in schedule.local:
            return
        drops = self.lengths.dynamic[schedule.prune.index(to_come)] < self._rows
        if drops and not any(layer < update <= to_come for update in schedule.update):
            self._prepared = to_come, self._choose(to_come, state)

    def _choose(self, layer: int, state: Tokens) -> _Drop:
        """The rows with the highest scores; all others than patches stay."""
        # A NaN (of broken weights) would sort above the rows that must stay.
        scores = torch.nan_to_num(self._visual(self._scores), nan=-1.0)
        keys = self._by_position(scores, self._best).index_select(0, state.positions)
        # Among equal scores members of V_global come first, then the lower position.
        member = self._by_position((self._global <= 1).double(), self._best)
        by_member = torch.sort(
            member.index_select(0, state.positions), descending=True, stable=True
        ).indices
        by_score = torch.sort(keys[by_member], descending=True, stable=True).indices
        rows = self.lengths.dynamic[self.schedule.prune.index(layer)]
        return self._drop(state, by_member[by_score[:rows]])

    def _prune(self, layer: int, state: Tokens) -> None:
        if self.lengths.dynamic[self.schedule.prune.index(layer)] >= self._rows:
            return
        self.side.wait()
        prepared, self._prepared = self._prepared, None
        if prepared is None or prepared[0] != layer:
            prepared = layer, self._choose(layer, state)
        self._take(*prepared)

    # Positions ------------------------------------------------------------------------------

    def _visual(self, rows: torch.Tensor) -> torch.Tensor:
        """Those of the patches among values [P] by absolute position, as [B, N]."""
        return rows[1 : 1 + self.shape.visual].view(self.grid)

    def _by_position(self, patches: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Keys of patches [B, N] and of all other rows [P] -> [P] by absolute position."""
        return torch.cat([others[:1], patches.flatten(), others[1 + self.shape.visual :]])

    # Afterwards -----------------------------------------------------------------------------

    def outputs(self) -> FixedOutputs:
        """What the query leaves."""
        self.side.wait()
        members = [(u <= 1).sum(1) for u in (self._global, self._dynamic, self._local)]
        trimmed = filled = torch.zeros_like(members[0])
        for union, kept in self._counted:
            trimmed = trimmed + (union & ~kept).sum(1)
            filled = (kept & ~union).sum(1)
        return FixedOutputs(
            tuple(self._stages),
            torch.stack([*members, trimmed, filled]),
            torch.stack([self._remembered[layer] for layer in self.schedule.global_]),
            torch.stack(self._confidence),
        )


def _last_drop(schedule: Schedule, lengths: FixedLengths | None) -> int:
    """The last pruning layer at which rows go, or -1: no score is needed after it."""
    if lengths is None:
        return -1
    before = (lengths.static, *lengths.dynamic)
    drops = [p for p, n, m in zip(schedule.prune, before, lengths.dynamic) if m < n]
    return max(drops, default=-1)
