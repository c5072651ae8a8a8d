"""Set algebra of the static stage: boolean masks over the patches of each camera, [n_cam, N]."""
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

Budgets = Sequence[int | Sequence]


def top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Mask [N] of the k largest finite scores [N]; ties go to the lower index on every device."""
    return top_k_per_camera(scores[None], [k])[0]


def split_evenly(k: int, parts: int) -> list[int]:
    """k over so many parts; the first ones take what does not divide."""
    share, rest = divmod(k, parts)
    return [share + (part < rest) for part in range(parts)]


def top_k_per_camera(scores: torch.Tensor, budgets: Budgets) -> torch.Tensor:
    """Mask [..., n_cam, N]: each camera's own top-k; scores are never pooled across cameras.

    scores [..., n_cam, N]; budgets [..., n_cam], nested. Either may lack leading dimensions of the
    other.
    """
    # A NaN sorts above every number, and is none: it must not use up a place.
    ranked = torch.nan_to_num(scores, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    order = torch.sort(ranked, dim=-1, descending=True, stable=True).indices
    first = _first_places(_frozen(budgets), scores.shape[-1], scores.device)
    shape = first.shape if first.dim() > scores.dim() else scores.shape
    masks = torch.empty(shape, dtype=torch.bool, device=scores.device)
    return masks.scatter_(-1, order.expand(shape), first.expand(shape)) & (ranked > -torch.inf)


@lru_cache(maxsize=64)  # of a query after the other; small tensors take long to make
def _first_places(budgets: tuple, n: int, device: torch.device) -> torch.Tensor:
    """Mask [..., n_cam, n] by rank."""
    wanted = torch.tensor(budgets, device=device)[..., None]
    return torch.arange(n, device=device) < wanted


def _frozen(budgets: Budgets) -> tuple:
    return tuple(_frozen(b) if isinstance(b, Sequence) else b for b in budgets)


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
