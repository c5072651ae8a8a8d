"""``preprocess.prepare_image`` as tensor operations, for pictures that are on the device already.

JPEG round trip and crop give the same bits as on the host; the resize sums in another order, so one
grey level may differ where the exact value lies between two.
"""
from __future__ import annotations

from functools import lru_cache

import torch

from specprune_ros.vla.openvla_oft.jpeg import jpeg_round_trip
from specprune_ros.vla.openvla_oft.preprocess import crop_grid, lanczos_matrix


def prepare_frames(
    images: torch.Tensor, size: int = 224, center_crop: bool = True, jpeg_roundtrip: bool = True
) -> torch.Tensor:
    """uint8 [n, H, W, 3] RGB -> uint8 [n, size, size, 3], what the policy sees."""
    if jpeg_roundtrip:
        images = jpeg_round_trip(images)
    images = _resized(images, size)
    return _cropped(images) if center_crop else images


def _resized(images: torch.Tensor, size: int) -> torch.Tensor:
    n, height, width = images.shape[:3]
    if (height, width) == (size, size):
        return images
    rows, columns = (_lanczos(side, size, images.device) for side in (height, width))
    tall = rows @ images.float().view(n, height, -1)  # [n, size, W*3]
    resized = columns @ tall.view(n, size, width, 3)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _cropped(images: torch.Tensor) -> torch.Tensor:
    low, high, fraction = _grid(images.shape[1], images.device)
    pixels = images.float() * (1 / 255)
    across = _between(pixels, 2, low, high, fraction[:, None])
    cropped = _between(across, 1, low, high, fraction[:, None, None])
    return cropped.clamp_(0, 1).mul_(255.5).to(torch.uint8)


def _between(
    values: torch.Tensor, dim: int, low: torch.Tensor, high: torch.Tensor, fraction: torch.Tensor
) -> torch.Tensor:
    first, second = values.index_select(dim, low), values.index_select(dim, high)
    return first + (second - first) * fraction


# Kept on the device: a query must not bring them from the host.
@lru_cache(maxsize=16)
def _lanczos(length: int, size: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(lanczos_matrix(length, size)).to(device)


@lru_cache(maxsize=4)
def _grid(size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    low, high, fraction = crop_grid(size)
    return tuple(torch.from_numpy(values).to(device) for values in (low, high, fraction))
