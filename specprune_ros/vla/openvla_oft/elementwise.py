"""What lies between the matrix products of a decoder layer: norm, rotary angles, gate.

Each is one pass over memory where the device allows it: fused kernels on CUDA (``kernels``, where
Triton is installed), few in-place passes elsewhere. Inference only: inputs may be overwritten.
"""
from __future__ import annotations

from importlib.util import find_spec

import torch
import torch.nn.functional as F

HAS_TRITON = find_spec("triton") is not None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """[n, D] -> [n, D], in float32 inside."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rope(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split fused projections [n, H + 2 H_kv, d] and rotate query and key; qkv is consumed.

    cos, sin: [n, d], whose halves are equal. Gives query [1, H, n, d], key and value
    [1, H_kv, n, d].
    """
    rotated = (heads + qkv.shape[1]) // 2  # heads of query and key
    if qkv.is_cuda and HAS_TRITON:
        from specprune_ros.vla.openvla_oft.kernels import rotate_in_place

        rotate_in_place(qkv, cos, sin, rotated)
        turned = qkv[:, :rotated].transpose(0, 1)
    else:
        turned = _rotate(qkv[:, :rotated].transpose(0, 1), cos, sin)
    value = qkv[:, rotated:].transpose(0, 1)
    return turned[None, :heads], turned[None, heads:], value[None]


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [H, n, d] -> [H, n, d] contiguous, which CPU attention reads fastest."""
    half = x.shape[-1] // 2
    cos, sin = cos[:, :half], sin[:, :half]
    first, second = x[..., :half], x[..., half:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """[n, 2 I] -> [n, I]: SiLU of the first half times the second."""
    if gate_up.is_cuda and HAS_TRITON:
        from specprune_ros.vla.openvla_oft.kernels import gated

        return gated(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
