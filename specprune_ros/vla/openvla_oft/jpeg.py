"""The JPEG round trip of the reference on any device, without a codec: what coding loses.

Entropy coding loses nothing, so the round trip is colour conversion, 4:2:0 subsampling, DCT,
quantisation, and back. The arithmetic is that of libjpeg (T.81 with its integer DCTs: ``islow``
forward, ``ifast`` inverse, fancy upsampling), to the last bit. All numbers are whole numbers that
float64 holds exactly, so matrix products do the work and every device gives the same.
"""
from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

QUALITY = 95

# T.81, table K.1 and K.2.
_LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def jpeg_round_trip(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, H, W, 3] RGB -> the same after coding at quality 95, 4:2:0, and decoding."""
    constants = _constants(images.device)
    height, width = images.shape[1:3]
    y, cb, cr = _to_ycc(images.permute(3, 0, 1, 2).double()).unbind(0)
    luma = _coded(y, 16, constants.luma, constants)[:, :height, :width]
    chroma = torch.cat([_subsampled(cb), _subsampled(cr)])
    coded = _coded(chroma, 8, constants.chroma, constants)
    coded = coded[:, : chroma.shape[1], : (width + 1) // 2]
    cb, cr = _upsampled(coded)[:, :height, :width].chunk(2)
    return _to_rgb(luma, cb, cr)


def _shift(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Arithmetic shift to the right."""
    return torch.floor(values * 2.0**-bits)


def _round_shift(values: torch.Tensor, bits: int) -> torch.Tensor:
    return _shift(values + 2.0 ** (bits - 1), bits)


# Colour ---------------------------------------------------------------------------------------


def _fix(value: float, bits: int = 16) -> float:
    """Fixed point, as a whole number."""
    return float(int(value * 2**bits + 0.5))


def _to_ycc(rgb: torch.Tensor) -> torch.Tensor:
    r, g, b = rgb.unbind(0)
    half, offset = 2.0**15, 128 * 2.0**16
    y = _fix(0.29900) * r + _fix(0.58700) * g + _fix(0.11400) * b + half
    cb = -_fix(0.16874) * r - _fix(0.33126) * g + _fix(0.5) * b + (offset + half - 1)
    cr = _fix(0.5) * r - _fix(0.41869) * g - _fix(0.08131) * b + (offset + half - 1)
    return _shift(torch.stack([y, cb, cr]), 16)


def _to_rgb(y: torch.Tensor, cb: torch.Tensor, cr: torch.Tensor) -> torch.Tensor:
    cb, cr, half = cb - 128, cr - 128, 2.0**15
    red = y + _shift(_fix(1.40200) * cr + half, 16)
    green = y + _shift(-_fix(0.34414) * cb - _fix(0.71414) * cr + half, 16)
    blue = y + _shift(_fix(1.77200) * cb + half, 16)
    return torch.stack([red, green, blue], dim=-1).clamp(0, 255).to(torch.uint8)


# Chroma ---------------------------------------------------------------------------------------


def _grown(planes: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Planes [n, H, W] with edges repeated until sides are multiples."""
    height, width = planes.shape[1:]
    padding = (0, -width % columns, 0, -height % rows)
    return F.pad(planes, padding, mode="replicate") if any(padding) else planes


def _subsampled(planes: torch.Tensor) -> torch.Tensor:
    """Means of 2 x 2; what lies between two whole numbers goes down and up in turn."""
    planes = _grown(planes, 2, 16)
    n, height, width = planes.shape
    sums = planes.view(n, height // 2, 2, width // 2, 2).sum((2, 4))
    bias = torch.arange(width // 2, device=planes.device) % 2 + 1
    return _shift(sums + bias, 2)


def _upsampled(planes: torch.Tensor) -> torch.Tensor:
    """Twice the sides, by a triangle filter: 9, 3, 3, 1 sixteenths of the four nearest."""
    if planes.shape[-1] <= 2:  # too narrow for libjpeg's filter, which then repeats
        n, height, width = planes.shape
        wide = planes[:, :, None, :, None].expand(n, height, 2, width, 2)
        return wide.reshape(n, 2 * height, 2 * width)
    padded = F.pad(planes, (0, 0, 1, 1), mode="replicate")
    middle = 3 * planes
    rows = torch.stack([middle + padded[:, :-2], middle + padded[:, 2:]], dim=2).flatten(1, 2)
    padded = F.pad(rows, (1, 1), mode="replicate")
    middle = 3 * rows
    left, right = middle + padded[..., :-2] + 8, middle + padded[..., 2:] + 7
    return _shift(torch.stack([left, right], dim=-1).flatten(2), 4)


# Blocks ---------------------------------------------------------------------------------------


def _coded(
    planes: torch.Tensor, multiple: int, table: _Table, constants: _Constants
) -> torch.Tensor:
    """Planes [n, H, W] after DCT, quantisation and back, sides grown to a multiple."""
    planes = _grown(planes, multiple, multiple) - 128
    n, height, width = planes.shape
    blocks = planes.view(n, height // 8, 8, width // 8, 8).transpose(2, 3)  # [n, y, x, 8, 8]
    levels = _quantised(_forward(blocks, constants.forward), table.steps)
    samples = (_inverse(levels * table.scales, constants) + 128).clamp(0, 255)
    return samples.transpose(2, 3).reshape(n, height, width)


def _forward(blocks: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Integer DCT, rows and then columns; coefficients eight times as large."""
    rows = _round_shift(blocks @ matrix.t(), 11)
    return _round_shift(matrix @ rows, 15)


def _quantised(coefficients: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    size = torch.floor((coefficients.abs() + steps / 2) / steps)
    return torch.copysign(size, coefficients)


def _inverse(values: torch.Tensor, constants: _Constants) -> torch.Tensor:
    """The fast integer inverse DCT, columns and then rows; products are cut, not rounded."""
    columns = _inverse_pass(values, constants)
    rows = _inverse_pass(columns.transpose(-1, -2), constants).transpose(-1, -2)
    return _shift(rows, 5)


def _inverse_pass(values: torch.Tensor, constants: _Constants) -> torch.Tensor:
    """Along the second to last dimension."""
    products = _shift(constants.multiplied @ values, 8)
    return constants.direct @ values + constants.from_products @ products


# Constants ------------------------------------------------------------------------------------


class _Table:
    """steps: eight times the quantisation steps; scales: what a level stands for, inverse DCT."""

    def __init__(self, base: np.ndarray, device: torch.device) -> None:
        quality = 200 - 2 * QUALITY
        steps = np.clip((base * quality + 50) // 100, 1, 255)
        # Scale factors of the fast DCT in 14 bits, of which two stay.
        k = np.arange(8)
        factors = np.where(k == 0, 1.0, np.sqrt(2.0) * np.cos(k * np.pi / 16))
        scales = np.floor(np.outer(factors, factors) * 2**14 + 0.5)
        scales = np.floor((steps * scales + 2**11) / 2**12)
        self.steps = torch.tensor(8.0 * steps, dtype=torch.float64, device=device)
        self.scales = torch.tensor(scales, dtype=torch.float64, device=device)


class _Constants:
    """Matrices and tables on a device."""

    def __init__(self, device: torch.device) -> None:
        def matrix(values: np.ndarray) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        self.luma, self.chroma = _Table(_LUMA, device), _Table(_CHROMA, device)
        self.forward = matrix(_forward_matrix())
        multiplied, direct, from_products = _inverse_matrices()
        self.multiplied, self.direct = matrix(multiplied), matrix(direct)
        self.from_products = matrix(from_products)


@lru_cache(maxsize=4)
def _constants(device: torch.device) -> _Constants:
    return _Constants(device)


def _forward_matrix() -> np.ndarray:
    """[8, 8], 13 bits: libjpeg's factored DCT, multiplied out over whole numbers."""
    d = np.eye(8)
    low, high = d[:4] + d[:3:-1], d[:4] - d[:3:-1]  # sums and differences of opposite samples
    ten, thirteen, eleven, twelve = (
        low[0] + low[3], low[0] - low[3], low[1] + low[2], low[1] - low[2]
    )
    z1 = (twelve + thirteen) * _fix(0.541196100, 13)
    t7, t6, t5, t4 = high
    z = [t4 + t7, t5 + t6, t4 + t6, t5 + t7]
    z5 = (z[2] + z[3]) * _fix(1.175875602, 13)
    z = [
        z[0] * -_fix(0.899976223, 13), z[1] * -_fix(2.562915447, 13),
        z[2] * -_fix(1.961570560, 13) + z5, z[3] * -_fix(0.390180644, 13) + z5,
    ]
    return np.stack([
        (ten + eleven) * 2**13,
        t7 * _fix(1.501321110, 13) + z[0] + z[3],
        z1 + thirteen * _fix(0.765366865, 13),
        t6 * _fix(3.072711026, 13) + z[1] + z[2],
        (ten - eleven) * 2**13,
        t5 * _fix(2.053119869, 13) + z[1] + z[3],
        z1 - twelve * _fix(1.847759065, 13),
        t4 * _fix(0.298631336, 13) + z[0] + z[2],
    ])


def _inverse_matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is multiplied (8 bits) and cut [5, 8]; what goes into the output directly [8, 8]; how
    the five products do [8, 5].
    """
    c = np.eye(8)
    z13, z10, z11, z12 = c[5] + c[3], c[5] - c[3], c[1] + c[7], c[1] - c[7]
    multiplied = np.stack([
        (c[2] - c[6]) * _fix(1.414213562, 8),
        (z11 - z13) * _fix(1.414213562, 8),
        (z10 + z12) * _fix(1.847759065, 8),
        z12 * _fix(1.082392200, 8),
        z10 * -_fix(2.613125930, 8),
    ])
    c, p = np.eye(8, 13), np.eye(13)[8:]  # as parts of inputs and of products

    def part(rows: np.ndarray) -> np.ndarray:
        return rows @ c

    t10, t11 = c[0] + c[4], c[0] - c[4]
    t13 = c[2] + c[6]
    t12 = p[0] - t13
    even = [t10 + t13, t11 + t12, t11 - t12, t10 - t13]
    t7 = part(z11 + z13)
    t6 = p[4] + p[2] - t7
    t5 = p[1] - t6
    t4 = p[3] - p[2] + t5
    outputs = np.stack([
        even[0] + t7, even[1] + t6, even[2] + t5, even[3] - t4,
        even[3] + t4, even[2] - t5, even[1] - t6, even[0] - t7,
    ])
    return multiplied, outputs[:, :8], outputs[:, 8:]
