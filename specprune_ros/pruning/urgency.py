"""Ranks of patches as numbers that can be compared across sets and cameras.

A patch's *urgency* in a set is (rank + 1) / budget, rank 0 being the best: <= 1 for the top-k. Its
urgency in a union is the smallest of those in its sets, so <= 1 is membership of the union.
"""
from __future__ import annotations

import torch


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """float32 rank of each of [..., N] within its row, 0 = largest, the lower index among equals.

    NaN and -inf are last.
    """
    ranked = torch.nan_to_num(scores, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    order = torch.sort(ranked, dim=-1, descending=True, stable=True).indices
    places = torch.arange(scores.shape[-1], dtype=torch.float32, device=scores.device)
    return torch.empty_like(order, dtype=torch.float32).scatter_(
        -1, order, places.expand(order.shape)
    )


def urgency(scores: torch.Tensor, budgets: torch.Tensor | float) -> torch.Tensor:
    """(rank + 1) / budget of scores [..., N]; inf for NaN and -inf, which are no scores."""
    # A comparison with NaN is false.
    return torch.where(scores > -torch.inf, (ranks(scores) + 1) / budgets, torch.inf)
