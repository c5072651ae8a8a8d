"""Triton kernels for what lies between matrix products on CUDA: one pass over memory each.

Triton comes with torch's CUDA builds for Linux. Arithmetic is in float32, rounded once at the end.
"""
from __future__ import annotations

import torch
import triton
import triton.language as tl

_HEADS = 8  # heads that one program turns
_COLUMNS = 1024  # columns that one program gates


@triton.jit
def _rotate(
    x, cos, sin, row_stride, angle_stride, heads,
    HALF: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, BLOCK)
    real = column < HALF
    # The halves of cos and sin are equal.
    c = tl.load(cos + row * angle_stride + column, mask=real, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + row * angle_stride + column, mask=real, other=0.0).to(tl.float32)[None, :]
    first = x + row * row_stride + head * (2 * HALF) + column[None, :]
    second = first + HALF
    mask = (head < heads) & real[None, :]
    a = tl.load(first, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(second, mask=mask, other=0.0).to(tl.float32)
    tl.store(first, (a * c - b * s).to(x.dtype.element_ty), mask=mask)
    tl.store(second, (b * c + a * s).to(x.dtype.element_ty), mask=mask)


def rotate_in_place(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int
) -> None:
    """Turn the first ``heads`` of x [n, H, d] by the angles of their rows, cos and sin [n, d]."""
    n, _, width = x.shape
    half = width // 2
    _rotate[(n, triton.cdiv(heads, _HEADS))](
        x, cos, sin, x.stride(0), cos.stride(0), heads,
        HALF=half, BLOCK=triton.next_power_of_2(half), HEADS=_HEADS,
    )


@triton.jit
def _gate(gate_up, out, in_stride, out_stride, width, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < width
    start = gate_up + row * in_stride + column
    gate = tl.load(start, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(start + width, mask=mask, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=mask)


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    """[n, 2 I] -> [n, I]: SiLU of the first half times the second."""
    n, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(n, width, dtype=gate_up.dtype, device=gate_up.device)
    _gate[(n, triton.cdiv(width, _COLUMNS))](
        gate_up, out, gate_up.stride(0), out.stride(0), width, COLUMNS=_COLUMNS,
    )
    return out
