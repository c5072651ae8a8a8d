"""Attention statistics of dense queries, through the probe: never a whole map."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from specprune_ros.pruning.base import Attention, PruneSession, QueryContext, SessionResult, Tokens
from specprune_ros.tokens import TokenLayout

_ROWS_AT_ONCE = 16  # [heads, 16, keys] is all that exists of a map
ROWS = ("instruction", "readout")  # whose attention is averaged


@dataclass(frozen=True)
class AttentionScores:
    """Attention to the patches in one query.

    scores: kind of rows -> float32 [layers, heads, n_cam, N]: post-softmax attention over all
    keys, averaged over the rows of that kind (instruction tokens; rows that the action head reads).
    """

    layout: TokenLayout
    scores: dict[str, torch.Tensor]


class ProbePruner:
    """Keeps everything, so that outputs are those of dense, and hands out what it saw.

    sink: called at the end of every query.
    """

    name = "probe"

    def __init__(self, sink: Callable[[AttentionScores], None]) -> None:
        self._sink = sink

    def begin(self, context: QueryContext) -> PruneSession:
        return _ProbeSession(context, self._sink)


class _ProbeSession(PruneSession):
    def __init__(
        self, context: QueryContext, sink: Callable[[AttentionScores], None]
    ) -> None:
        super().__init__(context)
        self._sink = sink
        self._layers: dict[str, list[torch.Tensor]] = {kind: [] for kind in ROWS}

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        for kind in ROWS:
            rows = getattr(self.layout, kind)
            self._layers[kind].append(head_scores(attention, rows, self.layout).cpu())

    def finish(self) -> SessionResult:
        scores = {kind: torch.stack(layers) for kind, layers in self._layers.items()}
        self._sink(AttentionScores(self.layout, scores))
        return super().finish()


def head_scores(attention: Attention, rows: range, layout: TokenLayout) -> torch.Tensor:
    """float32 [H, n_cam, N]: attention of these rows to each patch, averaged over the rows.

    rows: absolute positions. Every patch must be alive.
    """
    device = attention.positions.device
    patches = torch.arange(layout.visual.start, layout.visual.stop, device=device)
    total = None
    for some in torch.arange(rows.start, rows.stop, device=device).split(_ROWS_AT_ONCE):
        weights = attention.weights(some, patches).sum(1)
        total = weights if total is None else total + weights
    shape = (-1, len(layout.cameras), layout.patches_per_camera)
    return (total / len(rows)).reshape(shape)
