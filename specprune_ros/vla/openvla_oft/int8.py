"""Decoder layers with a byte per weight: int8 matrices, multiplied as integers.

Weights are rounded once, symmetrically, with a scale per output. Rows are rounded when they are
multiplied, with a scale each. Products add up in int32 (``torch._int_mm``), so that a device reads
half of what bfloat16 takes and can use its integer units. Kernels of torch that round weights only
(``_weight_int8pack_mm``) are far slower at the hundreds of rows of a query: docs/performance.md.
"""
from __future__ import annotations

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from specprune_ros.vla.openvla_oft.elementwise import rms_norm
from specprune_ros.vla.openvla_oft.layers import FusedLayer

_LEVELS = 127  # -127..127; -128 is left out, so that a weight and its negative round alike
_TINY = 1e-12  # scale of rows of zeros


class Int8Matrix:
    """A weight [out, in] as int8 with a float32 scale per output."""

    def __init__(self, weight: torch.Tensor) -> None:
        values, scale = _rounded(weight)
        # [in, out] as a view: the product wants its second matrix column by column.
        self._values, self._scale = values.t(), scale.t()

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + self._scale.nbytes

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[n, in] -> [n, out] in the type of the rows. CUDA needs n > 16."""
        values, scale = _rounded(rows)
        product = torch._int_mm(values, self._values).float()
        return product.mul_(scale).mul_(self._scale).to(rows.dtype)


def _rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [n, m] and float32 [n, 1], whose product is near the rows."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp_min_(_TINY).div_(_LEVELS)
    return (rows / scale).round_().to(torch.int8), scale


class Int8Layer(FusedLayer):
    """:class:`FusedLayer` on int8 matrices; the layer's own weights are given up."""

    def __init__(self, layer: LlamaDecoderLayer, qkv: torch.Tensor, gate_up: torch.Tensor) -> None:
        super().__init__(layer, qkv, gate_up)
        self._qkv, self._gate_up = Int8Matrix(qkv), Int8Matrix(gate_up)
        self._out, self._down = Int8Matrix(self._out), Int8Matrix(self._down)
        for part in layer.modules():
            if isinstance(part, nn.Linear):
                part.weight = nn.Parameter(part.weight.to("meta"), requires_grad=False)

    @property
    def nbytes(self) -> int:
        return sum(m.nbytes for m in (self._qkv, self._gate_up, self._out, self._down))

    def project(self, hidden, cos, sin):
        norm = self._norms[0]
        qkv = self._qkv(rms_norm(hidden[0], norm.weight, norm.variance_epsilon))
        heads = qkv.view(len(qkv), -1, self._head_dim)
        return self._elementwise.rope(heads, cos[0], sin[0], self._heads)

    def finish(self, hidden, attended):
        hidden = hidden[0] + self._out(attended[0])
        norm = self._norms[1]
        normed = rms_norm(hidden, norm.weight, norm.variance_epsilon)
        inner = self._elementwise.swiglu(self._gate_up(normed))
        return hidden.add_(self._down(inner))[None]
