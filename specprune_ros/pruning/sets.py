"""Set algebra of the static stage: boolean masks over the patches of each camera, [n_cam, N]."""
from __future__ import annotations

import torch


def top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Mask [N] of the k largest finite scores [N]; ties go to the lower index on every device."""
    finite = torch.isfinite(scores)
    mask = torch.zeros_like(finite)
    # A NaN sorts above every number: it must not use up a place.
    ranked = torch.where(finite, scores, -torch.inf)
    order = torch.sort(ranked, descending=True, stable=True).indices[: max(k, 0)]
    mask[order] = True
    return mask & finite


def split_evenly(k: int, parts: int) -> list[int]:
    """k over so many parts; the first ones take what does not divide."""
    share, rest = divmod(k, parts)
    return [share + (part < rest) for part in range(parts)]


def top_k_per_camera(scores: torch.Tensor, budgets: list[int]) -> torch.Tensor:
    """Mask [n_cam, N]: each camera's own top-k; scores are never pooled across cameras."""
    return torch.stack([top_k(row, k) for row, k in zip(scores, budgets)])


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
