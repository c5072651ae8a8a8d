"""Pruners that time the parts of a query; their outputs are those of what they wrap."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch

from specprune_ros.pruning.base import (
    Attention,
    DensePruner,
    Pruner,
    PruneSession,
    QueryContext,
    SessionResult,
    Tokens,
)
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.sets import top_k_per_camera
from specprune_ros.pruning.similarity import patch_similarity
from specprune_ros.pruning.specprune import SpecPrune

Clock = Callable[[], float]  # seconds


class TimedPruner:
    """A pruner whose sessions are timed. After a query: ``seconds`` per part, and ``began``, the
    time at which the session was asked for (what came before is the preparation of frames)."""

    def __init__(self, variant: SpecPruneConfig | str, now: Clock) -> None:
        self._inner: Pruner = DensePruner() if variant == "off" else SpecPrune(variant)
        # The policy takes the controller and the frame interval from here.
        self.config = getattr(self._inner, "config", None)
        self.name = self._inner.name
        self.now = now
        self.began = 0.0
        self.seconds: dict[str, float] = defaultdict(float)

    def begin(self, context: QueryContext) -> PruneSession:
        self.seconds.clear()
        self.began = self.now()
        session = self._inner.begin(context)
        self.seconds["frame comparison"] = self.now() - self.began
        return _TimedSession(session, self)


class _TimedSession:
    """Passes everything on to a session and adds up what it takes."""

    def __init__(self, inner: PruneSession, pruner: TimedPruner) -> None:
        self._inner, self._pruner = inner, pruner

    def skips(self, layer: int) -> bool:
        return self._inner.skips(layer)

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        return self._time("gather", lambda: self._inner.before_layer(layer, state))

    def keys_values(self, layer: int, state: Tokens, key: torch.Tensor, value: torch.Tensor):
        return self._inner.keys_values(layer, state, key, value)

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        probe = _TimedAttention(attention, self._pruner)
        before = self._pruner.seconds["scoring"]
        self._time("selection", lambda: self._inner.after_layer(layer, state, probe))
        self._pruner.seconds["selection"] -= self._pruner.seconds["scoring"] - before

    def finish(self) -> SessionResult:
        return self._time("update", self._inner.finish)

    def _time(self, part: str, work: Callable):
        began = self._pruner.now()
        result = work()
        self._pruner.seconds[part] += self._pruner.now() - began
        return result


class _TimedAttention:
    def __init__(self, inner: Attention, pruner: TimedPruner) -> None:
        self._inner, self._pruner = inner, pruner
        self.positions, self.key_positions = inner.positions, inner.key_positions

    def weights(
        self, rows: torch.Tensor | slice, keys: torch.Tensor | slice | None = None
    ) -> torch.Tensor:
        began = self._pruner.now()
        result = self._inner.weights(rows, keys)
        self._pruner.seconds["scoring"] += self._pruner.now() - began
        return result


class IsolationPruner:
    """Dense queries that repeat each part on the tensors at hand. ``ms``: part -> times."""

    name = "isolation"

    def __init__(self, config: SpecPruneConfig, repeats: int, now: Clock) -> None:
        # Under another name, as the policy would take a controller from ``config``.
        self.settings = config
        self._repeats, self._now = repeats, now
        self.ms: dict[str, list[float]] = defaultdict(list)

    def begin(self, context: QueryContext) -> PruneSession:
        session = _IsolationSession(context, self)
        references = [f for f in (context.step_frame, context.query_frame) if f is not None]
        if references:
            measure = self.settings.static.similarity
            grid = context.layout.grid
            self.repeat("frame comparison", lambda: patch_similarity(
                context.frame, references, grid, measure))
        return session

    def repeat(self, part: str, work: Callable):
        """Time a part several times; gives the result of the last run."""
        result = work()
        for _ in range(self._repeats):
            began = self._now()
            result = work()
            self.ms[part].append(1e3 * (self._now() - began))
        return result


class _IsolationSession(PruneSession):
    def __init__(self, context: QueryContext, pruner: IsolationPruner) -> None:
        super().__init__(context)
        self._pruner = pruner

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        if layer:
            return
        layout, mode = self.layout, self.context.mode
        device = state.positions.device
        rows = torch.arange(layout.instruction.start, layout.instruction.stop, device=device)
        shape = (len(layout.cameras), layout.patches_per_camera)
        first, end = layout.visual.start, layout.visual.stop
        patches = torch.arange(first, end, device=device)
        budgets = [self._pruner.settings.budgets.of(name, mode).local for name in layout.cameras]

        def score() -> torch.Tensor:
            return attention.weights(rows, patches).mean((0, 1)).reshape(shape)

        def select() -> torch.Tensor:
            keep = torch.ones(layout.length, dtype=torch.bool, device=device)
            keep[first:end] = top_k_per_camera(scores, budgets).flatten()
            return torch.nonzero(keep[state.positions]).squeeze(1)

        scores = self._pruner.repeat("scoring", score)
        kept = self._pruner.repeat("selection", select)
        self._pruner.repeat("gather", lambda: state.select(kept))
