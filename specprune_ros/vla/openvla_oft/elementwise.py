"""What lies between the matrix products of a decoder layer: norm, rotary angles, gate.

Few passes over memory each. Inference only: inputs may be overwritten.
"""
from __future__ import annotations

import logging
from functools import lru_cache

import torch
import torch.nn.functional as F

_log = logging.getLogger(__name__)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """[n, D] -> [n, D], in float32 inside."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


class Elementwise:
    """With torch's own operations."""

    name = "torch"

    def rope(
        self, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Split fused projections [n, H + 2 H_kv, d] and rotate query and key; qkv is consumed.

        cos, sin: [n, d], whose halves are equal. Gives query [1, H, n, d], key and value
        [1, H_kv, n, d].
        """
        rotated = (heads + qkv.shape[1]) // 2  # heads of query and key
        turned = self._rotated(qkv, cos, sin, rotated)  # [rotated, n, d]
        value = qkv[:, rotated:].transpose(0, 1)
        return turned[None, :heads], turned[None, heads:], value[None]

    def _rotated(
        self, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int
    ) -> torch.Tensor:
        x, half = qkv[:, :heads].transpose(0, 1), qkv.shape[-1] // 2
        cos, sin = cos[:, :half], sin[:, :half]
        first, second = x[..., :half], x[..., half:]
        # Head by head, which attention on the CPU reads fastest.
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
        return out

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[n, 2 I] -> [n, I]: SiLU of the first half times the second."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)


class TritonElementwise(Elementwise):
    """With one kernel each, in place where that is possible; see ``kernels``."""

    name = "triton"

    def __init__(self) -> None:
        from specprune_ros.vla.openvla_oft import kernels

        self._kernels = kernels

    def _rotated(self, qkv, cos, sin, heads):
        self._kernels.rotate_in_place(qkv, cos, sin, heads)
        return qkv[:, :heads].transpose(0, 1)

    def swiglu(self, gate_up):
        return self._kernels.gated(gate_up)


@lru_cache(maxsize=4)
def elementwise(device: torch.device) -> Elementwise:
    """What suits a device: Triton's kernels on CUDA, if they can be compiled there."""
    plain = Elementwise()
    if device.type != "cuda":
        return plain
    try:
        fused = TritonElementwise()
        _check(fused, plain, device)
    except Exception as error:  # no Triton, no C compiler, a device that it does not know, ...
        reason = " ".join(str(error).split())
        _log.warning(
            "Triton's kernels cannot be used (%s: %s): queries take a little longer. Triton comes "
            "with torch and needs a C compiler", type(error).__name__, reason,
        )
        return plain
    return fused


def _check(fused: Elementwise, plain: Elementwise, device: torch.device) -> None:
    """Raises where the kernels do not run, or do not give what torch does."""
    generator = torch.Generator(device).manual_seed(0)
    qkv = torch.randn(5, 6, 32, device=device, generator=generator)
    angles = torch.randn(5, 16, device=device, generator=generator)
    cos, sin = (torch.cat([x, x], dim=-1) for x in (angles.cos(), angles.sin()))
    pairs = list(zip(fused.rope(qkv.clone(), cos, sin, 2), plain.rope(qkv.clone(), cos, sin, 2)))
    gate_up = torch.randn(5, 200, device=device, generator=generator)
    pairs.append((fused.swiglu(gate_up), plain.swiglu(gate_up)))
    for found, expected in pairs:
        if not torch.allclose(found, expected, atol=1e-5):
            raise RuntimeError("their results differ from torch's")
