"""How a query is run: eagerly, with the exact sets; or as a program of fixed shapes.

``eager`` is the oracle: exact unions, any method. ``static`` runs a fixed program operation by
operation, ``graph`` replays it as one CUDA graph; both know dense queries and SpecPrune.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Sequence

import numpy as np
import torch

from specprune_ros.pruning.base import Pruner, QueryContext, SessionResult
from specprune_ros.runtime.timing import StageClock
from specprune_ros.tokens import TokenLayout
from specprune_ros.vla.openvla_oft.model import OpenVLAOFT
from specprune_ros.vla.openvla_oft.text import Prompt


@dataclass(frozen=True)
class Query:
    """One query: its text, its proprio (normalised [P] or None), and what a pruner may know.

    known: features [N, F] of cameras whose towers need not run, None for the others; empty where
    features are never used again (``runtime.reuse``).
    """

    prompt: Prompt
    proprio: np.ndarray | None
    context: QueryContext
    known: tuple[torch.Tensor | None, ...] = ()


@dataclass(frozen=True)
class Execution:
    """What a query gave.

    normalized_actions: float32 [C, A]. layer_positions: int64 per layer, the rows that entered it.
    cold: the query paid for a program that was not there yet. features: [1, n_cam*N, F] of the
    patches, where ``Query.known`` is not empty.
    """

    normalized_actions: np.ndarray
    layer_positions: tuple[np.ndarray, ...]
    layer_keys: tuple[int, ...]
    finished: SessionResult
    cold: bool = False
    features: torch.Tensor | None = None


class Executor(Protocol):
    """Runs queries on one model. ``name`` appears in reports."""

    name: str

    def check(self, pruner: Pruner) -> None:
        """Raises ConfigurationError for a method that it cannot run."""

    def clock(self) -> StageClock:
        """A clock for one query."""

    def prepare(
        self, layouts: Sequence[TokenLayout], depth: int, pruner: Pruner, reuse: bool = False
    ) -> None:
        """Do now what the first queries of these layouts would otherwise pay for.

        depth: layers of the decoder. reuse: features of cameras may be used again.
        """

    def run(self, query: Query, pruner: Pruner, clock: StageClock) -> Execution:
        """One query."""


class EagerExecutor:
    """Operation by operation, rows as the method's sets have them.

    fused: use the fused matrices of the model where there are.
    """

    name = "eager"

    def __init__(self, model: OpenVLAOFT, fused: bool = True) -> None:
        self._model, self._fused = model, fused

    def check(self, pruner: Pruner) -> None:
        pass

    def clock(self) -> StageClock:
        return StageClock(self._model.device)

    def prepare(
        self, layouts: Sequence[TokenLayout], depth: int, pruner: Pruner, reuse: bool = False
    ) -> None:
        pass

    def run(self, query: Query, pruner: Pruner, clock: StageClock) -> Execution:
        with clock("selection"):
            session: Any = pruner.begin(query.context)
        result = self._model(
            query.context.frame, query.prompt, query.proprio, query.context.layout, session, clock,
            self._fused, query.known,
        )
        with clock("update"):
            finished = session.finish()
            positions = _to_host(result.layer_positions)
        return Execution(
            result.normalized_actions, positions, result.layer_keys, finished,
            features=result.features,
        )


def _to_host(layers: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, ...]:
    """Layers with the same rows share one copy."""
    copies: dict[int, np.ndarray] = {}
    for positions in layers:
        if id(positions) not in copies:
            copies[id(positions)] = positions.cpu().numpy()
    return tuple(copies[id(positions)] for positions in layers)
