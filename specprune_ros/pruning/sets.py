"""Set algebra of the static stage: boolean masks over the patches of each camera, [n_cam, N]."""
from __future__ import annotations

import torch


def top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Mask [N] of the k largest finite scores [N]; ties go to the lower index on every device."""
    return top_k_per_camera(scores[None], [k])[0]


def split_evenly(k: int, parts: int) -> list[int]:
    """k over so many parts; the first ones take what does not divide."""
    share, rest = divmod(k, parts)
    return [share + (part < rest) for part in range(parts)]


def top_k_per_camera(scores: torch.Tensor, *budgets: list[int]) -> torch.Tensor:
    """Mask [n_cam, N]: each camera's own top-k; scores are never pooled across cameras.

    Several lists of budgets give as many masks, [len(budgets), n_cam, N], for one sort.
    """
    finite = torch.isfinite(scores)
    # A NaN sorts above every number: it must not use up a place.
    ranked = torch.where(finite, scores, -torch.inf)
    order = torch.sort(ranked, dim=-1, descending=True, stable=True).indices
    wanted = torch.tensor(budgets, device=scores.device)[..., None]
    first = torch.arange(scores.shape[-1], device=scores.device) < wanted  # by rank
    masks = torch.empty_like(first).scatter_(-1, order.expand(first.shape), first) & finite
    return masks if len(budgets) > 1 else masks[0]


def changed_patches(similarity: torch.Tensor, tau: float, k: int, rule: str) -> torch.Tensor:
    """V_dynamic of one camera from its similarities [N].

    ``lowest``: at most k patches, the least similar of those below tau (paper).
    ``static_cap``: everything but the N - k most similar patches at or above tau (released code),
    so at least k patches, and all that moved.
    """
    if rule == "lowest":
        candidates = torch.where(similarity < tau, -similarity, -torch.inf)
        return top_k(candidates, k)
    static = torch.where(similarity >= tau, similarity, -torch.inf)
    return ~top_k(static, len(similarity) - k)
