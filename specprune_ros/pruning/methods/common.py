"""What the methods of the comparison share: knobs, layer boundaries, scores, dropping of rows.

A *drop boundary* d says that layers 0..d-1 compute every patch and layers from d on the kept ones;
its scores come from layer d-1. Boundaries are stated for 32 layers.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Mapping, Sequence, TypeVar

import torch

from specprune_ros.errors import ConfigurationError, MethodUnavailable
from specprune_ros.pruning.base import (
    Attention,
    PruneSession,
    QueryContext,
    SessionResult,
    Tokens,
)
from specprune_ros.pruning.schedule import REFERENCE_DEPTH, scale_layers
from specprune_ros.pruning.sets import split_evenly
from specprune_ros.tokens import TokenLayout
from specprune_ros.types import CameraTokens, PruneReport

_CHUNK = 64  # rows of attention recomputed at once: [H, 64, S] instead of [H, S, S]


# Settings ----------------------------------------------------------------------------------


def check_keep(name: str, keep: float) -> None:
    """Raises ConfigurationError unless 0 < keep <= 1."""
    if not 0.0 < keep <= 1.0:
        raise ConfigurationError(f"{name}: keep must lie in (0, 1], not {keep}")


def check_choice(name: str, field: str, value: str, choices: Sequence[str]) -> None:
    """Raises ConfigurationError unless the value is one of the choices."""
    if value not in choices:
        raise ConfigurationError(f"{name}: {field} '{value}' is not one of {', '.join(choices)}")


def check_boundaries(name: str, *boundaries: int) -> None:
    """Raises ConfigurationError unless every drop boundary has layers on both of its sides."""
    if any(not 1 <= boundary < REFERENCE_DEPTH for boundary in boundaries):
        raise ConfigurationError(
            f"{name}: a boundary must lie in 1..{REFERENCE_DEPTH - 1}, not {boundaries}"
        )


def kept_count(keep: float, total: int) -> int:
    """round(keep * total), halves upward, at least 1: keep = c / total gives exactly c."""
    return min(total, max(1, int(keep * total + 0.5)))


def scaled_boundary(boundary: int, depth: int) -> int:
    """A drop boundary stated for 32 layers, in a decoder of ``depth`` layers.

    The score layer d-1 is put at the same relative depth (``scale_layers``); the drop follows it.
    So 0 stays 0, and a boundary after some layer stays after at least one.
    """
    return 0 if boundary == 0 else scale_layers([boundary - 1], depth)[0] + 1


Self = TypeVar("Self", bound="Method")


class Method:
    """A pruner with a frozen config that has ``name`` and the knob ``keep``.

    keep is the share of visual tokens the method keeps; matched-cost comparisons bisect over it.
    """

    Config: ClassVar[type]
    Session: ClassVar[type]
    looks_back: ClassVar[bool] = False

    def __init__(self, config: Any = None) -> None:
        self.config = self.Config() if config is None else config

    @property
    def name(self) -> str:
        return self.config.name

    def with_keep(self: Self, keep: float) -> Self:
        """The same method at another keep ratio. Raises ConfigurationError outside (0, 1]."""
        return type(self)(replace(self.config, keep=float(keep)))

    def begin(self, context: QueryContext) -> PruneSession:
        return self.Session(context, self.config)


# Scores ------------------------------------------------------------------------------------


def span(positions: range, device: torch.device) -> torch.Tensor:
    """int64 [len] of consecutive positions."""
    return torch.arange(positions.start, positions.stop, device=device)


def instruction_rows(layout: TokenLayout, device: torch.device, method: str) -> torch.Tensor:
    """Positions of the instruction's tokens. Raises MethodUnavailable where there are none."""
    if not len(layout.instruction):
        raise MethodUnavailable(
            f"{method} ranks patches by the instruction, and this prompt has no instruction tokens"
        )
    return span(layout.instruction, device)


def mean_attention(attention: Attention, rows: torch.Tensor) -> torch.Tensor:
    """float32 [m]: attention that each key receives, mean over heads and over these rows."""
    parts = [attention.weights(chunk).mean(0).sum(0) for chunk in rows.split(_CHUNK)]
    return torch.stack(parts).sum(0) / len(rows)


def mean_row_entropy(attention: Attention) -> torch.Tensor:
    """Entropy in nats of the head-averaged row, mean over all alive rows: float32 scalar."""
    parts = []
    for chunk in attention.positions.split(_CHUNK):
        rows = attention.weights(chunk).mean(0)
        parts.append(torch.special.entr(rows).sum(-1))
    return torch.cat(parts).mean()


def top_indices(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Indices, ascending, of the k largest of [n]; ties go to the lower index on every device."""
    order = torch.sort(scores, descending=True, stable=True).indices[:k]
    return order.sort().values


def pooled_top(scores: torch.Tensor, k: int, cameras: int, pool: str) -> torch.Tensor:
    """:func:`top_indices` over all patches [V], or an even share for each camera."""
    if pool == "joint":
        return top_indices(scores, k)
    each = scores.reshape(cameras, -1)
    shares = split_evenly(k, cameras)
    picks = [top_indices(row, share) for row, share in zip(each, shares)]
    return torch.cat([pick + i * each.shape[1] for i, pick in enumerate(picks)])


# Sessions ----------------------------------------------------------------------------------


class DropSession(PruneSession):
    """Drops rows of patches. All other rows stay, so alive patches are rows 1 .. 1 + n.

    That n is known on the host: nothing here waits for the device before ``finish``.
    """

    def __init__(self, context: QueryContext) -> None:
        super().__init__(context)
        self._pending: torch.Tensor | None = None
        self._stages: list[tuple[int, torch.Tensor]] = []

    def patches(self, rows: torch.Tensor) -> slice:
        """Where the alive patches lie among these rows (or keys)."""
        others = self.layout.length - self.layout.visual_tokens
        return slice(1, 1 + rows.shape[0] - others)

    def keep_patches(self, boundary: int, state: Tokens, chosen: torch.Tensor) -> None:
        """Drop every alive patch but ``chosen`` (ascending, counted among them) at ``boundary``."""
        positions = state.positions
        end = self.patches(positions).stop
        first = chosen.new_zeros(1)
        rest = torch.arange(end, positions.shape[0], device=positions.device)
        self._pending = torch.cat([first, chosen + 1, rest])
        self._stages.append((boundary - 1, positions[chosen + 1]))

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        if self._pending is None:
            return state
        rows, self._pending = self._pending, None
        return state.select(rows)

    def result(
        self,
        history: Any = None,
        dense: bool = False,
        details: Mapping[str, float] | None = None,
    ) -> SessionResult:
        """First drop under ``kept_static``, later ones under ``kept_dynamic``."""
        n, cameras = self.layout.patches_per_camera, self.layout.cameras
        counts = [
            torch.bincount((kept - 1) // n, minlength=len(cameras)).tolist()
            for _, kept in self._stages
        ] or [[n] * len(cameras)]
        tokens = tuple(
            CameraTokens(name, n, 0, 0, 0, counts[0][c], tuple(stage[c] for stage in counts[1:]))
            for c, name in enumerate(cameras)
        )
        layers = tuple(layer for layer, _ in self._stages[1:])
        return SessionResult(tokens, history, dense, layers, details or {})

    def finish(self) -> SessionResult:
        return self.result()


# Counts of another method ------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Patches another method kept: ``queries[q][layer][camera]``."""

    queries: tuple[tuple[tuple[int, ...], ...], ...]

    def of(self, query: int, context: QueryContext, method: str) -> tuple[tuple[int, ...], ...]:
        """Counts of one query. Raises ConfigurationError where they do not fit the query."""
        if query >= len(self.queries):
            raise ConfigurationError(
                f"{method}: counts were given for {len(self.queries)} queries, this is query "
                f"number {query}: take counts_from() a run of at least as many queries, or give a "
                "keep ratio"
            )
        counts = self.queries[query]
        cameras = len(context.layout.cameras)
        if len(counts) != context.depth or any(len(layer) != cameras for layer in counts):
            raise ConfigurationError(
                f"{method}: the counts are for {len(counts)} layers and {len(counts[0])} cameras, "
                f"this query has {context.depth} layers and {cameras} cameras"
            )
        for before, after in zip(counts, counts[1:]):
            if any(b < a for b, a in zip(before, after)):
                raise ConfigurationError(f"{method}: counts must not grow from layer to layer")
        return counts


def counts_from(reports: Sequence[PruneReport]) -> Counts:
    """What the queries of an episode kept per layer and camera, from their PruneReports."""
    return Counts(tuple(report.visual_tokens_per_layer for report in reports))


class CountedSession(DropSession):
    """Keeps, at each layer, the first so many patches of an order of each camera."""

    def __init__(
        self,
        context: QueryContext,
        counts: Sequence[Sequence[int]],
        order: torch.Tensor,
    ) -> None:
        """counts [layer][camera]; order int64 [n_cam, N] of patch indices, on any device."""
        super().__init__(context)
        self._counts = counts
        n = context.layout.patches_per_camera
        rank = torch.empty_like(order)
        rank.scatter_(1, order, torch.arange(n).expand_as(order))
        self._rank = rank
        self._alive: Sequence[int] = [n] * len(context.layout.cameras)

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        counts = self._counts[layer]
        if list(counts) != list(self._alive):
            # Worked out on the host, where the order was drawn; one upload.
            before = self._rank < torch.tensor(list(self._alive))[:, None]
            after = self._rank < torch.tensor(list(counts))[:, None]
            chosen = torch.nonzero(after[before]).squeeze(1)
            self.keep_patches(layer, state, chosen.to(state.positions.device))
            self._alive = counts
        return super().before_layer(layer, state)


def constant_counts(
    keep: float, boundary: int, context: QueryContext
) -> tuple[tuple[int, ...], ...]:
    """An even share of the kept count for each camera from a boundary on: [layer][camera]."""
    layout = context.layout
    n = layout.patches_per_camera
    shares = split_evenly(kept_count(keep, layout.visual_tokens), len(layout.cameras))
    first = scaled_boundary(boundary, context.depth)
    full = (n,) * len(layout.cameras)
    return tuple(full if l < first else tuple(shares) for l in range(context.depth))
