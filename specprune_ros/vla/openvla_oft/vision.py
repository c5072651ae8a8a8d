"""The two vision towers and the projector.

Features are the output of the last block but one, without the final norm; DINOv2's CLS and register
tokens are dropped. The unused last block is neither loaded nor run.
"""
from __future__ import annotations

from typing import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersLayer,
)
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from specprune_ros.vla.openvla_oft.config import PATCH, VitConfig
from specprune_ros.vla.openvla_oft.layers import fuse_parameters
from specprune_ros.vla.openvla_oft.weights import Source

_LAYER_NORM_EPS = 1e-6  # timm's vision transformers


class VisionTower(nn.Module):
    """Patch embedding, positions, prefix tokens and blocks of one tower.

    Input [B, 3, H, W] normalised pixels; output [B, N, width] patch features.
    """

    def __init__(self, config: VitConfig, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(3, config.width, kernel_size=PATCH, stride=PATCH)
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches, config.width))
        self.has_prefix = config.registers >= 0
        if self.has_prefix:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
            self.reg_token = nn.Parameter(torch.empty(1, config.registers, config.width))
        self.blocks = nn.ModuleList(blocks)
        self._fused: list[_FusedBlock] | None = None

    def fuse(self) -> None:
        """Join query, key and value of each block, for inference; weights stop training."""
        self._fused = [_FusedBlock(block, self.config) for block in self.blocks]

    def _apply(self, fn, recurse: bool = True):
        # Moved or converted, parameters are tensors of their own again.
        super()._apply(fn, recurse)
        if self._fused is not None:
            self.fuse()
        return self

    def forward(self, pixels: torch.Tensor, fused: bool = True) -> torch.Tensor:
        """fused: use the fused matrices where there are."""
        x = self.embed(pixels)
        for block in self._fused if fused and self._fused is not None else self.blocks:
            x = block(x, None)
        return x[:, -self.config.patches :]

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """The tokens that enter the first block, [B, prefix + N, width]."""
        x = self.patch_embed(pixels).flatten(2).transpose(1, 2) + self.pos_embed  # [B, N, D]
        if self.has_prefix:
            # The prefix tokens carry no positional term.
            prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
            x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)
        return x


class _FusedBlock:
    """A block of either tower with one matrix for query, key and value; inference only."""

    def __init__(self, block: nn.Module, config: VitConfig) -> None:
        dino = config.registers >= 0
        names, attention = (_DINO_NAMES, "attention") if dino else (_SIGLIP_NAMES, "self_attn")
        parts = {theirs: block.get_submodule(ours) for theirs, ours in names.items()}
        self._norm1, self._norm2 = parts["norm1"], parts["norm2"]
        self._proj, self._fc1, self._fc2 = parts["attn.proj"], parts["mlp.fc1"], parts["mlp.fc2"]
        projections = [block.get_submodule(f"{attention}.{x}_proj") for x in "qkv"]
        self._weight = fuse_parameters(projections, "weight")
        self._bias = fuse_parameters(projections, "bias")
        self._scales = [block.get_submodule(f"layer_scale{n}").lambda1 for n in "12" if dino]
        self._heads = config.heads

    def __call__(self, x: torch.Tensor, mask: None = None) -> torch.Tensor:
        batch, n, width = x.shape
        qkv = F.linear(self._norm1(x), self._weight, self._bias)
        q, k, v = qkv.view(batch, n, 3, self._heads, -1).permute(2, 0, 3, 1, 4)  # [B, H, n, d]
        attended = F.scaled_dot_product_attention(q, k, v)
        attended = self._proj(attended.transpose(1, 2).reshape(batch, n, width))
        x = self._add(x, attended, 0)
        return self._add(x, self._fc2(F.gelu(self._fc1(self._norm2(x)))), 1)

    def _add(self, x: torch.Tensor, update: torch.Tensor, which: int) -> torch.Tensor:
        return torch.addcmul(x, update, self._scales[which]) if self._scales else x + update


class Projector(nn.Module):
    """[..., dino + siglip] features -> [..., D] token embeddings: three layers, exact GELU."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.fc2 = nn.Linear(4 * features, hidden)
        self.fc3 = nn.Linear(hidden, hidden)
        self.act = nn.GELU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc3(self.act(self.fc2(self.act(self.fc1(features)))))


def build_dino(config: VitConfig) -> VisionTower:
    """DINOv2 with registers, on transformers' layers."""
    layer_config = Dinov2WithRegistersConfig(
        hidden_size=config.width,
        num_hidden_layers=config.used_blocks,
        num_attention_heads=config.heads,
        mlp_ratio=_exact_ratio(config),
        layer_norm_eps=_LAYER_NORM_EPS,
        hidden_act="gelu",
        num_register_tokens=config.registers,
        attn_implementation="sdpa",
    )
    blocks = [Dinov2WithRegistersLayer(layer_config) for _ in range(config.used_blocks)]
    return VisionTower(config, blocks)


def build_siglip(config: VitConfig) -> VisionTower:
    """SigLIP so400m, on transformers' layers (with timm's exact GELU)."""
    layer_config = SiglipVisionConfig(
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.used_blocks,
        num_attention_heads=config.heads,
        layer_norm_eps=_LAYER_NORM_EPS,
        hidden_act="gelu",
        attn_implementation="sdpa",
    )
    blocks = [SiglipEncoderLayer(layer_config) for _ in range(config.used_blocks)]
    return VisionTower(config, blocks)


def _exact_ratio(config: VitConfig) -> int:
    return config.mlp_width // config.width


def _thirds(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.chunk(3, dim=0))


# Names of timm's block tensors -> names in transformers' layers.
_DINO_NAMES = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_SIGLIP_NAMES = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def tower_sources(config: VitConfig, target: str) -> Iterator[Source]:
    """Which tensors fill a tower held under the name ``target``."""
    dino = config.registers >= 0
    root = f"vision_backbone.{config.prefix}."
    names, attention = (_DINO_NAMES, "attention") if dino else (_SIGLIP_NAMES, "self_attn")
    for kind in ("weight", "bias"):
        yield Source(f"{root}patch_embed.proj.{kind}", (f"{target}.patch_embed.{kind}",))
    for name in ("pos_embed", "cls_token", "reg_token") if dino else ("pos_embed",):
        yield Source(f"{root}{name}", (f"{target}.{name}",))
    for i in range(config.used_blocks):
        block, layer = f"{root}blocks.{i}.", f"{target}.blocks.{i}."
        for kind in ("weight", "bias"):
            for theirs, ours in names.items():
                yield Source(f"{block}{theirs}.{kind}", (f"{layer}{ours}.{kind}",))
            qkv = tuple(f"{layer}{attention}.{x}_proj.{kind}" for x in "qkv")
            yield Source(f"{block}attn.qkv.{kind}", qkv, _thirds)
        if dino:
            for n in "12":
                scale = (f"{layer}layer_scale{n}.lambda1",)
                yield Source(f"{block}ls{n}.scale_factor", scale)
