"""Pictures of what was kept: the brighter a patch, the more decoder layers it entered."""
from __future__ import annotations

import math

import numpy as np

from ..tokens import TokenLayout
from ..types import PruneReport

_CROP = math.sqrt(0.9)  # side of the centre crop of preprocessing (vla/openvla_oft/preprocess.py)
_LARGEST = 640  # px; larger pictures are thinned out
_UNSEEN, _PRUNED = 0.1, 0.25  # brightness outside of the crop, and of a patch that entered no layer


def depth_of_patches(report: PruneReport) -> dict[str, np.ndarray]:
    """camera -> float64 [G, G]: share of the decoder's layers that each patch entered.

    Cameras whose patches form no square grid are left out.
    """
    patches = {camera.tokens_in for camera in report.cameras}
    if len(patches) != 1 or not report.kept_positions:
        return {}
    count = patches.pop()
    names = tuple(camera.name for camera in report.cameras)
    layout = TokenLayout(names, count, False, 0, 0, (0, 0))
    if layout.grid**2 != count:
        return {}
    entered = np.zeros(1 + len(names) * count)
    for positions in report.kept_positions:
        visual = positions[positions < len(entered)]
        entered[visual] += 1
    entered /= len(report.kept_positions)
    return {name: entered[layout.camera(k).start:layout.camera(k).stop].reshape(
        layout.grid, layout.grid) for k, name in enumerate(names)}


def draw(rgb: np.ndarray, depth: np.ndarray, cropped: bool) -> np.ndarray:
    """A picture uint8 [H, W, 3] with its patches shaded; ``depth`` [G, G] of one camera.

    cropped: whether the policy sees the centre crop only, as ``center_crop`` says.
    """
    stride = max(1, math.ceil(max(rgb.shape[:2]) / _LARGEST))
    small = rgb[::stride, ::stride]
    rows, columns = (_patch_of(n, depth.shape[0], cropped) for n in small.shape[:2])
    brightness = np.full(small.shape[:2], _UNSEEN)
    seen = np.ix_(rows >= 0, columns >= 0)
    shades = _PRUNED + (1.0 - _PRUNED) * depth
    brightness[seen] = shades[np.ix_(rows[rows >= 0], columns[columns >= 0])]
    return np.rint(small * brightness[:, :, None]).astype(np.uint8)


def _patch_of(length: int, grid: int, cropped: bool) -> np.ndarray:
    """int [length]: the row (or column) of patches that each pixel falls into, -1 for none."""
    side = _CROP if cropped else 1.0
    middle = (np.arange(length) + 0.5) / length
    index = np.floor((middle - (1 - side) / 2) / side * grid).astype(int)
    index[(index < 0) | (index >= grid)] = -1
    return index
