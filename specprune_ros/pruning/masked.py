"""The arithmetic of the dynamic stage over rows of which only some count (see ``dynamic``)."""
from __future__ import annotations

import torch

from specprune_ros.pruning.dynamic import (
    EPS,
    LEAST_ENTROPY,
    SCALE_FREE_SLOPE,
    mean_entropy,
)


def masked_rank_weights(
    attention: torch.Tensor, counts: torch.Tensor, slope: float | None
) -> torch.Tensor:
    """``dynamic.rank_weights`` of the entries of [m] that count ([m] bool); 0 elsewhere."""
    ranked = torch.where(counts, attention, -torch.inf)
    order = torch.sort(ranked, descending=True, stable=True).indices
    places = torch.arange(len(attention), dtype=torch.float64, device=attention.device)
    ranks = torch.empty_like(places).scatter_(0, order, places)
    k = SCALE_FREE_SLOPE / counts.sum().double().clamp_min(1) if slope is None else slope
    weights = torch.sigmoid(-k * ranks) * counts
    return weights / weights.sum().clamp_min(1e-300)


def masked_confidence(rows: torch.Tensor, counts: torch.Tensor, kind: str) -> torch.Tensor:
    """``dynamic.CONFIDENCE[kind]`` of the columns of rows [Q, m] that count; the others are 0."""
    rows, n = rows.double(), counts.sum()
    if kind == "mean_std":
        size = (n * len(rows)).clamp_min(1)
        mean = rows.sum() / size
        variance = (torch.where(counts, rows - mean, 0.0) ** 2).sum() / size
        return torch.where(n > 0, mean / (variance.sqrt() + EPS), 1.0)
    entropy = mean_entropy(rows)
    if kind == "entropy":
        entropy = entropy / n.double().clamp_min(2).log()
    return torch.where(n > 1, 1.0 / entropy.clamp_min(LEAST_ENTROPY), 1.0)
