"""The arithmetic of one decoder layer on one query: as separate matrices, or as fused ones.

Both read the weights of transformers' ``LlamaDecoderLayer``. The fused matrices are the same
memory: after :meth:`FusedLayer.of` the layer's own parameters are views of them, under their names.
"""
from __future__ import annotations

from typing import Protocol, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from specprune_ros.vla.openvla_oft.elementwise import Elementwise, elementwise, rms_norm


class LayerMath(Protocol):
    """What lies before and after attention in a layer; rows in and out as [1, n, D]."""

    def project(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated query [1, H, n, d], rotated key and value [1, H_kv, n, d]."""

    def finish(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Output rows from input rows and attention output [1, n, H*d]."""


class PlainLayer:
    """Matrix by matrix, as transformers does it."""

    def __init__(self, layer: LlamaDecoderLayer) -> None:
        self._layer = layer

    def project(self, hidden, cos, sin):
        attention, n = self._layer.self_attn, hidden.shape[1]
        normed = self._layer.input_layernorm(hidden)
        query, key, value = (
            projection(normed).view(1, n, -1, attention.head_dim).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return *apply_rotary_pos_emb(query, key, cos, sin), value

    def finish(self, hidden, attended):
        hidden = hidden + self._layer.self_attn.o_proj(attended)
        return hidden + self._layer.mlp(self._layer.post_attention_layernorm(hidden))


class FusedLayer:
    """One matrix for query, key and value, one for gate and up; inference only."""

    def __init__(self, layer: LlamaDecoderLayer, qkv: torch.Tensor, gate_up: torch.Tensor) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._qkv, self._gate_up = qkv, gate_up
        self._out, self._down = attention.o_proj.weight, mlp.down_proj.weight
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._heads = attention.q_proj.weight.shape[0] // attention.head_dim
        self._head_dim = attention.head_dim
        self._elementwise: Elementwise = elementwise(qkv.device)

    @classmethod
    def of(cls, layer: LlamaDecoderLayer) -> FusedLayer:
        """Fuse the weights of a layer; its parameters become views of the fused ones."""
        attention, mlp = layer.self_attn, layer.mlp
        qkv = fuse_parameters([attention.q_proj, attention.k_proj, attention.v_proj], "weight")
        return cls(layer, qkv, fuse_parameters([mlp.gate_proj, mlp.up_proj], "weight"))

    def project(self, hidden, cos, sin):
        norm = self._norms[0]
        normed = rms_norm(hidden[0], norm.weight, norm.variance_epsilon)
        qkv = F.linear(normed, self._qkv)
        heads = qkv.view(len(qkv), -1, self._head_dim)
        return self._elementwise.rope(heads, cos[0], sin[0], self._heads)

    def finish(self, hidden, attended):
        # The sums ride along with the products; the second one works in place on the first.
        hidden = torch.addmm(hidden[0], attended[0], self._out.t())
        norm = self._norms[1]
        normed = rms_norm(hidden, norm.weight, norm.variance_epsilon)
        inner = self._elementwise.swiglu(F.linear(normed, self._gate_up))
        return hidden.addmm_(inner, self._down.t())[None]


def fuse_parameters(modules: Sequence[nn.Module], name: str) -> torch.Tensor:
    """Stack a parameter of several modules by rows; each module's own becomes a view of its part.

    Nothing is copied where they are such views already.
    """
    parts = [getattr(module, name).detach() for module in modules]
    fused = _joined(parts)
    if fused is None:
        fused = torch.cat(parts)
        for module, view in zip(modules, fused.split([len(part) for part in parts])):
            setattr(module, name, nn.Parameter(view, requires_grad=False))
    return fused


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor that the parts are consecutive rows of, or None."""
    first, at = parts[0], parts[0].data_ptr()
    storage = first.untyped_storage().data_ptr()
    for part in parts:
        if part.untyped_storage().data_ptr() != storage or part.data_ptr() != at:
            return None
        if not part.is_contiguous():
            return None
        at += part.nbytes
    shape = (sum(len(part) for part in parts), *first.shape[1:])
    return first.as_strided(shape, first.stride())
