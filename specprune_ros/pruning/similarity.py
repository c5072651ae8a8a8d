"""How alike the patches of two frames are, per camera."""
from __future__ import annotations

import torch

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # constants of SSIM for 8-bit pictures


def patch_vectors(frames: torch.Tensor, grid: int) -> torch.Tensor:
    """uint8 [n_cam, H, W, 3] -> float32 [n_cam, grid*grid, pixels, 3], patches in row-major order."""
    cameras, height, width, channels = frames.shape
    rows, columns = height // grid, width // grid
    patches = frames.reshape(cameras, grid, rows, grid, columns, channels).float()
    return patches.permute(0, 1, 3, 2, 4, 5).reshape(cameras, grid * grid, -1, channels)


def cosine_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The paper's measure: cosine of the raw RGB values, [n_cam, N]. All-black patches give 0.

    Blind to brightness: a flat patch is like any other flat patch of the same hue.
    """
    a, b = a.flatten(2), b.flatten(2)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + 1e-8)


def structural_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SSIM over each patch (Wang et al. 2004), averaged over the colour channels: [n_cam, N].

    Sees changes of brightness, colour and structure; 1 for identical patches, black ones included,
    and its constants keep sensor noise on flat patches from counting as change.
    """
    mean_a, mean_b = a.mean(2), b.mean(2)  # [n_cam, N, 3]
    centred_a, centred_b = a - mean_a[:, :, None], b - mean_b[:, :, None]
    var_a, var_b = (centred_a**2).mean(2), (centred_b**2).mean(2)
    covariance = (centred_a * centred_b).mean(2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    return (luminance * structure).mean(-1)


MEASURES = {"cosine": cosine_similarity, "ssim": structural_similarity}


def patch_similarity(
    current: torch.Tensor, references: list[torch.Tensor], grid: int, measure: str
) -> torch.Tensor:
    """Lowest similarity of each patch of ``current`` to the same patch of the references.

    current and references: uint8 [n_cam, H, W, 3]; result float32 [n_cam, N].
    """
    now = patch_vectors(current, grid)
    each = [MEASURES[measure](now, patch_vectors(r, grid)) for r in references]
    return torch.stack(each).amin(0)
