"""SparseVLM (Zhang et al., arXiv 2410.04417): three reductions by the prompt, with recycling.

    raters:  r_t = mean over v of softmax_t(e_v . e_t);  Q = {t : r_t >= mean r}
    score:   p_v = mean over t in Q of mean_h a_h(t, v), after layers 2, 6 and 15
    recycle: 30 % of the dropped patches, the best of them, are merged by density-peak clustering

A merged token is a row at the position of its cluster's centre, so that position stays in
``kept_positions``. Left out: random noise that breaks density ties (here: the lower index).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import Attention, QueryContext, SessionResult, Tokens
from specprune_ros.pruning.checks import check_types
from specprune_ros.pruning.methods.common import (
    DropSession,
    Method,
    check_boundaries,
    check_choice,
    check_keep,
    instruction_rows,
    scaled_boundary,
    span,
)

_PUBLISHED_PATCHES = 576  # patches of the published lists
_PUBLISHED_KEEP = 192 / 576  # the list below is "192 tokens on average"


@dataclass(frozen=True)
class SparseVLMConfig:
    """keep: average share kept; the published list [300, 200, 110] of 576 stands for 1/3.

    Other ratios scale the list in proportion until its first number is all patches, and from there
    on to all patches at keep = 1. boundaries: for 32 layers. budget ``rank``: keep
    int(rank_scale * rank of the score matrix + rank_offset) instead (first release; in floating
    point that rank is the number of raters). recycle: share of the dropped that is merged, 0 = off.
    raters_from: the instruction's tokens or the whole prompt's. merge: ``mean`` (code) or ``sum``
    (paper).
    """

    name: str = "sparsevlm"
    keep: float = _PUBLISHED_KEEP
    boundaries: tuple[int, ...] = (3, 7, 16)
    shares: tuple[float, ...] = tuple(n / _PUBLISHED_PATCHES for n in (300, 200, 110))
    budget: Literal["list", "rank"] = "list"
    rank_scale: float = 13.5
    rank_offset: float = 0.0
    recycle: float = 0.3
    raters_from: Literal["instruction", "prompt"] = "instruction"
    merge: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        check_types(self)
        check_keep(self.name, self.keep)
        check_boundaries(self.name, *self.boundaries)
        check_choice(self.name, "budget", self.budget, ("list", "rank"))
        check_choice(self.name, "raters_from", self.raters_from, ("instruction", "prompt"))
        check_choice(self.name, "merge", self.merge, ("mean", "sum"))
        if len(self.shares) != len(self.boundaries) or min(self.boundaries, default=0) < 1:
            raise ConfigurationError(f"{self.name}: one share per boundary, boundaries >= 1")
        if not all(0.0 < share <= 1.0 for share in self.shares):
            raise ConfigurationError(f"{self.name}: shares must lie in (0, 1]")
        if not 0.0 <= self.recycle <= 1.0:
            raise ConfigurationError(f"{self.name}: recycle must lie in [0, 1]")

    def keep_shares(self) -> tuple[float, ...]:
        """Share of all patches that each stage keeps at this ``keep``."""
        full = _PUBLISHED_KEEP / max(self.shares)  # the ratio at which the first stage keeps all
        scale = min(self.keep, full) / _PUBLISHED_KEEP
        scaled = [min(1.0, share * scale) for share in self.shares]
        beyond = max(0.0, self.keep - full) / (1.0 - full) if full < 1.0 else 0.0
        return tuple(share + (1.0 - share) * beyond for share in scaled)


def choose_raters(text: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """Weights float64 [T] of the text tokens [T, D] that rate patches [V, D]: 0, or 1 / |Q|.

    A mask, so that nothing waits for the device. Never all zero.
    """
    logits = text.double() @ visual.double().T
    relevance = torch.softmax(logits, dim=0).mean(1)
    # Rounding must not leave equal relevances all below their own mean.
    raters = (relevance >= relevance.mean() * (1 - 1e-9)).double()
    return raters / raters.sum()


def cluster_tokens(features: torch.Tensor, clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Density-peak clustering of [n, D]: indices of the centres [c], cluster of each token [n].

    density rho = exp(-mean squared distance to the c nearest, itself included), delta = distance to
    the nearest denser token (the largest distance for the densest); centres have the largest rho *
    delta. Of equal densities the lower index is the denser one.
    """
    x = features.float()
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance / x.shape[1] ** 0.5
    nearest = distance.sort(dim=1).values[:, :clusters]
    density = torch.exp(-(nearest**2).mean(1))
    index = torch.arange(len(x), device=x.device)
    denser = (density[None] > density[:, None]) | (
        (density[None] == density[:, None]) & (index[None] < index[:, None])
    )
    delta = torch.where(denser, distance, distance.max()).amin(1)
    centres = torch.sort(density * delta, descending=True, stable=True).indices[:clusters]
    assigned = distance[:, centres].argmin(1)
    assigned[centres] = torch.arange(clusters, device=x.device)
    return centres, assigned


def merge_tokens(
    features: torch.Tensor, assigned: torch.Tensor, clusters: int, how: str
) -> torch.Tensor:
    """[c, D]: mean or sum of the features [n, D] of each cluster."""
    member = F.one_hot(assigned, clusters).T.to(torch.float32)
    total = member @ features.float()
    if how == "mean":
        total = total / member.sum(1, keepdim=True)
    return total.to(features.dtype)


@dataclass(frozen=True)
class Recycled:
    """What one stage did with the tokens it dropped, by absolute position.

    merged [n_rec] and the cluster of each [n_rec]; centres [c]; discarded: the others.
    """

    merged: torch.Tensor
    cluster: torch.Tensor
    centres: torch.Tensor
    discarded: torch.Tensor


class SparseVLMSession(DropSession):
    """``recycled`` maps a stage's boundary to what became of its dropped patches."""

    def __init__(self, context: QueryContext, config: SparseVLMConfig) -> None:
        super().__init__(context)
        self.config = config
        visual = self.layout.visual_tokens
        # Where a shallow decoder merges two stages, the later one's share counts.
        self.stages = {
            scaled_boundary(boundary, context.depth): int(share * visual + 0.5)
            for boundary, share in zip(config.boundaries, config.keep_shares())
        }
        self.recycled: dict[int, Recycled] = {}
        self._text = (
            instruction_rows(self.layout, context.device, config.name)
            if config.raters_from == "instruction"
            else span(self.layout.text, context.device)
        )
        self._weights: torch.Tensor | None = None
        self._merged_hidden: torch.Tensor | None = None

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        if layer == 0:
            hidden = state.hidden[0]
            visual = hidden[self.patches(state.positions)]
            self._weights = choose_raters(hidden.index_select(0, self._text), visual)
        if self._merged_hidden is not None:
            state, self._merged_hidden = state.with_hidden(self._merged_hidden), None
        return super().before_layer(layer, state)

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        boundary = layer + 1
        if boundary not in self.stages:
            return
        alive = self.patches(state.positions)
        count = alive.stop - alive.start
        ratings = attention.weights(self._text, state.positions[alive]).mean(0)  # [T, n]
        keep = self._kept(boundary, ratings, count)
        if keep >= count:
            return
        scores = (ratings.double() * self._weights[:, None]).sum(0)
        order = torch.sort(scores, descending=True, stable=True).indices
        chosen, dropped = order[:keep], order[keep:]
        if self.config.recycle > 0:
            chosen = torch.cat([chosen, self._recycle(boundary, state, dropped)])
        self.keep_patches(boundary, state, chosen.sort().values)

    def _kept(self, boundary: int, ratings: torch.Tensor, count: int) -> int:
        if self.config.budget == "list":
            return min(max(1, self.stages[boundary]), count)
        rank = int(torch.linalg.matrix_rank(ratings[self._weights > 0]))
        wanted = int(self.config.rank_scale * rank + self.config.rank_offset)
        return min(max(1, wanted), count)

    def _recycle(self, boundary: int, state: Tokens, dropped: torch.Tensor) -> torch.Tensor:
        """Merge the best of the dropped patches; returns the centres, counted among the alive."""
        count = min(len(dropped), int(self.config.recycle * len(dropped)) + 1)
        clusters = count // 10 + 1
        best = dropped[:count].sort().values
        features = state.hidden[0].index_select(0, best + 1)
        centres, assigned = cluster_tokens(features, clusters)
        merged = merge_tokens(features, assigned, clusters, self.config.merge)
        rows = best[centres] + 1
        self._merged_hidden = state.hidden.index_copy(1, rows, merged[None])
        positions = state.positions
        self.recycled[boundary] = Recycled(
            positions[best + 1], assigned, positions[rows], positions[dropped[count:] + 1]
        )
        return best[centres]

    def finish(self) -> SessionResult:
        merged = sum(len(r.centres) for r in self.recycled.values())
        return self.result(details={"merged_tokens": float(merged)})


class SparseVLM(Method):
    Config, Session = SparseVLMConfig, SparseVLMSession
