"""How alike the patches of two frames are, per camera.

Every measure is made of sums of whole numbers, which float32 holds exactly for patches of up to
258 pixels per channel (14 x 14 is 196), and of element-wise float64: all devices give the same
bits, so they choose the same patches.
"""
from __future__ import annotations

from typing import NamedTuple

import torch

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # constants of SSIM for 8-bit pictures


class PatchSums(NamedTuple):
    """Sums over the pixels of a patch, float64 [..., n_cam, N, 3]: frames a, b, and products."""

    pixels: int
    a: torch.Tensor
    b: torch.Tensor
    aa: torch.Tensor
    bb: torch.Tensor
    ab: torch.Tensor


def patch_sums(values: torch.Tensor, grid: int) -> torch.Tensor:
    """float32 [..., H, W, 3] of whole numbers -> float64 [..., grid*grid, 3], row-major."""
    *leading, height, width, channels = values.shape
    rows, columns = height // grid, width // grid
    bands = values.reshape(*leading, grid, rows, width * channels).sum(-2)
    sums = bands.reshape(*leading, grid, grid, columns, channels).sum(-2)
    return sums.reshape(*leading, grid * grid, channels).double()


def cosine_similarity(sums: PatchSums) -> torch.Tensor:
    """The paper's measure: cosine of the raw RGB values, [n_cam, N]. All-black patches give 0.

    Blind to brightness: a flat patch is like any other flat patch of the same hue.
    """
    dot, aa, bb = sums.ab.sum(-1), sums.aa.sum(-1), sums.bb.sum(-1)
    # One root of the product, not a product of roots: identical patches give exactly 1.
    norms = torch.sqrt(aa * bb)
    return torch.where(norms > 0, dot / norms.clamp_min(1.0), 0.0)


def structural_similarity(sums: PatchSums) -> torch.Tensor:
    """SSIM over each patch (Wang et al. 2004), averaged over the colour channels: [n_cam, N].

    Sees changes of brightness, colour and structure; exactly 1 for identical patches, black ones
    included. Its constants keep faint sensor noise (standard deviation of about one grey level) on
    flat patches from counting as change.
    """
    n = sums.pixels
    mean_a, mean_b = sums.a / n, sums.b / n
    var_a, var_b = sums.aa / n - mean_a * mean_a, sums.bb / n - mean_b * mean_b
    covariance = sums.ab / n - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a * mean_a + mean_b * mean_b + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    red, green, blue = (luminance * structure).unbind(-1)
    return (red + green + blue) / 3  # in one order everywhere, as a reduction is not


MEASURES = {"cosine": cosine_similarity, "ssim": structural_similarity}


def patch_similarity(
    current: torch.Tensor, references: list[torch.Tensor], grid: int, measure: str
) -> torch.Tensor:
    """Lowest similarity of each patch of ``current`` to the same patch of the references.

    current and references: uint8 [n_cam, H, W, 3], H and W multiples of ``grid``; result float64
    [n_cam, N] on the device of ``current``.
    """
    a, b = current.float(), torch.stack(references).float()
    sums = PatchSums(
        (current.shape[1] // grid) * (current.shape[2] // grid),
        *(patch_sums(values, grid) for values in (a, b, a * a, b * b, a * b)),
    )
    return MEASURES[measure](sums).amin(0)
