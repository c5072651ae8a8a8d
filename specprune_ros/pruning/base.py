"""What a pruning method is, seen from the runtime.

A :class:`Pruner` holds settings only. For each query it begins a :class:`PruneSession` from what is
known beforehand; the decoder asks the session at fixed points (see ``DecoderSession``); afterwards
``finish`` tells what was kept and what the next query shall remember. The session never writes to
the episode: the runtime commits after success.

Sessions work on torch tensors: positions int64 [n] (absolute, ascending), scores float.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Protocol

import torch

from specprune_ros.tokens import TokenLayout
from specprune_ros.types import CameraTokens, Mode


class Tokens(Protocol):
    """Rows that are alive: hidden [1, n, D] and absolute positions [n].

    ``select(rows, padded=False)`` says that no padding is among the rows kept.
    """

    hidden: torch.Tensor
    positions: torch.Tensor

    def select(self, rows: torch.Tensor, padded: bool = True) -> Tokens: ...

    def with_hidden(self, hidden: torch.Tensor) -> Tokens: ...


class Attention(Protocol):
    """What a layer attended to: ``weights(rows)`` gives float32 [H, Q, m] over ``key_positions``.

    With ``keys`` only those columns of the full rows are given, [H, Q, K]; for many rows this never
    holds the whole map. Rows and keys are absolute positions, ascending, or a slice of those alive,
    which need not be looked up.
    """

    positions: torch.Tensor
    key_positions: torch.Tensor

    def weights(
        self, rows: torch.Tensor | slice, keys: torch.Tensor | slice | None = None
    ) -> torch.Tensor: ...


@dataclass(frozen=True)
class QueryContext:
    """What a pruner may know before the forward pass.

    frame: uint8 [n_cam, S, S, 3], the policy's view now; step_frame: T control periods earlier,
    or None; query_frame: that of the previous query, or None. history: what ``finish`` of the
    previous query gave, or None.
    """

    layout: TokenLayout
    depth: int
    device: torch.device
    mode: Mode
    query_number: int
    frame: torch.Tensor
    step_frame: torch.Tensor | None
    query_frame: torch.Tensor | None
    history: Any


@dataclass(frozen=True)
class SessionResult:
    """What a session kept, for the report, and what the next query shall remember."""

    cameras: tuple[CameraTokens, ...]
    history: Any = None
    dense_refresh: bool = False
    dynamic_layers: tuple[int, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)


class PruneSession:
    """A session that keeps everything; methods override what they need."""

    def __init__(self, context: QueryContext) -> None:
        self.context = context
        self.layout = context.layout

    def skips(self, layer: int) -> bool:
        return False

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        return state

    def keys_values(
        self, layer: int, state: Tokens, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return key, value, state.positions

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        pass

    def finish(self) -> SessionResult:
        n = self.layout.patches_per_camera
        cameras = tuple(CameraTokens(name, n, 0, 0, 0, n) for name in self.layout.cameras)
        return SessionResult(cameras)


class Pruner(Protocol):
    """A pruning method with its settings. ``name`` appears in reports and on topics.

    A pruner with ``looks_back = False`` gets no ``QueryContext.step_frame``: preparing that frame
    takes as long as preparing the query's own, and is time of the query.
    """

    name: str

    def begin(self, context: QueryContext) -> PruneSession: ...


class DensePruner:
    """Keeps everything (``pruning="off"``)."""

    name = "off"
    looks_back = False

    def begin(self, context: QueryContext) -> PruneSession:
        return PruneSession(context)
