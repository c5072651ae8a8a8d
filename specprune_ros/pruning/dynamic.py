"""Arithmetic of the dynamic stage (paper section "dynamic pruning"), on visual tokens only."""
from __future__ import annotations

import math
from functools import lru_cache

import torch

from specprune_ros.pruning.config import DynamicConfig

EPS = 1e-8
LEAST_ENTROPY = 1e-3  # a one-hot layer would weigh 1 / eps and wipe out all others for good
SCALE_FREE_SLOPE = 8.0  # the last rank weighs 2 sigma(-8) = 7e-4 of the first, whatever n is


def rank_weights(attention: torch.Tensor, slope: float | None) -> torch.Tensor:
    """float64 [n]: sigma(-k * rank) normalised to sum 1; rank 0 = most attended.

    Ties in attention rank by index. slope None: k = 8 / n, strictly decreasing for any n.
    """
    order = torch.sort(attention, descending=True, stable=True).indices
    weights = _weights_by_place(len(attention), slope, attention.device)
    return torch.empty_like(weights).scatter_(0, order, weights)


@lru_cache(maxsize=512)  # a query asks for a few lengths, the next ones for the same or similar
def _weights_by_place(n: int, slope: float | None, device: torch.device) -> torch.Tensor:
    k = SCALE_FREE_SLOPE / max(n, 1) if slope is None else slope
    weights = torch.sigmoid(-k * torch.arange(n, dtype=torch.float64, device=device))
    return weights / weights.sum()


def mean_entropy(rows: torch.Tensor) -> torch.Tensor:
    """Mean over rows [Q, n] of the entropy (nats) of each, renormalised over the visual tokens."""
    p = rows.double()
    p = p / p.sum(-1, keepdim=True).clamp_min(1e-300)
    # torch.special.entr is the same, but takes three times as long: it is not vectorised.
    return -(p * p.clamp_min(1e-300).log()).sum(-1).mean()


def entropy_confidence(rows: torch.Tensor) -> torch.Tensor:
    """1 / (mean entropy / ln n) of rows [Q, n]: 1 for uniform attention, whatever n is."""
    n = rows.shape[-1]
    if n <= 1:
        return torch.ones((), dtype=torch.float64, device=rows.device)
    return 1.0 / (mean_entropy(rows) / math.log(n)).clamp_min(LEAST_ENTROPY)


def entropy_nats_confidence(rows: torch.Tensor) -> torch.Tensor:
    """1 / mean entropy of rows [Q, n], as the paper's second version prints it."""
    if rows.shape[-1] <= 1:
        return torch.ones((), dtype=torch.float64, device=rows.device)
    return 1.0 / mean_entropy(rows).clamp_min(LEAST_ENTROPY)


def mean_std_confidence(rows: torch.Tensor) -> torch.Tensor:
    """Mean over standard deviation of the layer's attention weights (paper v1)."""
    if rows.shape[-1] == 0:
        return torch.ones((), dtype=torch.float64, device=rows.device)
    rows = rows.double()
    return rows.mean() / (rows.std(unbiased=False) + EPS)


CONFIDENCE = {
    "entropy": entropy_confidence,
    "entropy_nats": entropy_nats_confidence,
    "mean_std": mean_std_confidence,
}


def updated_scores(
    scores: torch.Tensor, rows: torch.Tensor, confidence: torch.Tensor, config: DynamicConfig
) -> torch.Tensor:
    """S <- (1 - beta) S + beta * rank weight * confidence; float64 scores [n], rows [Q, n]."""
    weights = rank_weights(rows.mean(0), config.rank_slope)
    return (1 - config.beta) * scores + config.beta * weights * confidence


def kept_count(visual: int, total: int, config: DynamicConfig) -> int:
    """Visual tokens that stay at one pruning layer, of ``visual`` among ``total`` rows."""
    if config.ratio_of == "visual":
        kept = int(config.keep * visual + 1e-9)
    else:
        kept = visual - (total - int(config.keep * total + 1e-9))
    return min(visual, max(kept, config.floor))


def highest_scored(scores: torch.Tensor, protected: torch.Tensor, keep: int) -> torch.Tensor:
    """int64 [keep], ascending: which of the tokens [n] have the highest scores.

    Ties go to members of V_global (``protected`` [n] bool), then to the lower position, so that
    the same tokens are chosen on every device.
    """
    by_membership = torch.sort(protected.to(torch.int8), descending=True, stable=True).indices
    ranked = scores.index_select(0, by_membership)
    by_score = torch.sort(ranked, descending=True, stable=True).indices
    return torch.sort(by_membership.index_select(0, by_score[:keep])).values
