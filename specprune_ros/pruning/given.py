"""Rows that are told beforehand: to repeat a query, and to measure what rows cost by themselves."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from specprune_ros.pruning.base import PruneSession, QueryContext, SessionResult, Tokens
from specprune_ros.types import CameraTokens


class GivenRows:
    """Keeps given positions from given layers on, whatever the query shows.

    stages: layer -> positions that enter it and the next ones, ascending; every one among those of
    the stage before.
    """

    name = "given"
    looks_back = False

    def __init__(self, stages: Mapping[int, Sequence[int]]) -> None:
        self.stages = {
            layer: tuple(int(p) for p in positions)
            for layer, positions in sorted(stages.items())
        }

    @classmethod
    def of(cls, kept_positions: Sequence[np.ndarray]) -> GivenRows:
        """The rows of a query, from ``PruneReport.kept_positions``."""
        stages, before = {}, len(kept_positions[0])
        for layer, positions in enumerate(kept_positions):
            if len(positions) < before:
                stages[layer] = positions
            before = len(positions)
        return cls(stages)

    def begin(self, context: QueryContext) -> PruneSession:
        given = {
            layer: torch.tensor(positions, device=context.device)
            for layer, positions in self.stages.items()
        }
        return GivenSession(given, context)


class GivenSession(PruneSession):
    """given: layer -> positions int64 [n]. context: None where ``finish`` is not asked for."""

    def __init__(
        self, given: Mapping[int, torch.Tensor], context: QueryContext | None = None
    ) -> None:
        if context is not None:
            super().__init__(context)
        self._given = given

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        if layer not in self._given:
            return state
        rows = torch.searchsorted(state.positions, self._given[layer])
        return state.select(rows, padded=False)

    def finish(self) -> SessionResult:
        last = list(self._given.values())[-1].cpu().numpy() if self._given else None
        cameras = []
        for index, name in enumerate(self.layout.cameras):
            span = self.layout.camera(index)
            kept = len(span)
            if last is not None:
                kept = int(np.diff(np.searchsorted(last, [span.start, span.stop]))[0])
            cameras.append(CameraTokens(name, len(span), 0, 0, 0, kept))
        return SessionResult(tuple(cameras))
