"""The batched forward pass of training, and the auxiliary losses that only training has."""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from specprune_ros.training.data import Batch
from specprune_ros.training.dropping import (
    LATER,
    LATER_KEPT,
    attended_patches,
    kept_patches,
    named_patches,
    select_rows,
)
from specprune_ros.training.grounding import grounding_loss, visual_attention
from specprune_ros.vla.openvla_oft.config import PATCH
from specprune_ros.vla.openvla_oft.model import OpenVLAOFT
from specprune_ros.vla.openvla_oft.text import STOP_ID

_POINTING_LAYER = 1  # its output tells which patches the instruction means
_RARE = 10.0  # weight of the few patches with an entity against the many without
_METRES = 10.0  # offsets are learnt in decimetres


def _plain_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention by two matrix products, without a mask; [B, H, n, d] -> [B, n, H, d].

    In bfloat16 on a CPU, forward and backward take less than half the time of torch's fused
    kernel at 200 tokens, and 0.7 of it at 600 (torch 2.13, AVX-512).
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = ((query * scale) @ key.transpose(2, 3)).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("specprune_plain", _plain_attention)


@dataclass(frozen=True)
class Losses:
    """Scalars: action (L1, weighted), patch, pointing, offset, grounding (0 without a weight).

    per_dim [7] is for the log.
    """

    action: torch.Tensor
    patch: torch.Tensor
    pointing: torch.Tensor
    offset: torch.Tensor
    grounding: torch.Tensor
    per_dim: torch.Tensor
    grounding_weight: float = 0.0

    @property
    def total(self) -> torch.Tensor:
        heads = 2 * self.action + 0.3 * self.patch + 0.3 * self.pointing + 0.5 * self.offset
        return heads + self.grounding_weight * self.grounding


class TrainingNetwork(nn.Module):
    """The policy's network with heads that are dropped from the checkpoint.

    patch: entity presence and offset per patch, from the towers' features. pointing: is this
    visual token the target or the destination. offset: both relative to the tool, from the mean
    read-out state. They make the towers see and the decoder ground the words.
    grounding: weight of the loss on attention (training/grounding.py).
    """

    def __init__(self, model: OpenVLAOFT, entities: int, grounding: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.grounding = grounding
        hidden = model.config.llama.hidden_size
        features = model.config.dino.width + model.config.siglip.width
        self.patch_head = nn.Linear(features, 3 * entities)
        self.pointing_head = nn.Linear(hidden, 2)
        self.offset_head = nn.Linear(hidden, 6)
        for layer in model.decoder.layers:
            layer.self_attn.is_causal = False
        for name, tower in (("dino", model.config.dino), ("siglip", model.config.siglip)):
            self.register_buffer(f"{name}_mean", torch.tensor(tower.mean).view(1, 3, 1, 1))
            self.register_buffer(f"{name}_std", torch.tensor(tower.std).view(1, 3, 1, 1))

    def use_plain_attention(self) -> None:
        """For bfloat16 on a CPU, where it is faster; every layer has as many keys as values."""
        for module in self.model.modules():
            config = getattr(module, "config", None)
            if hasattr(config, "_attn_implementation"):
                config._attn_implementation = "specprune_plain"

    def features(self, images: torch.Tensor, augment: bool) -> torch.Tensor:
        """uint8 [B, n_cam, S, S, 3] -> tower features [B, n_cam, N, F]."""
        batch, cameras = images.shape[:2]
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        if augment:
            shape = (len(pixels), 1, 1, 1)
            gain = 1 + 0.1 * torch.randn(shape, device=pixels.device)
            shift = 0.04 * torch.randn(shape, device=pixels.device)
            noise = 0.01 * torch.randn_like(pixels)
            pixels = (pixels * gain + shift + noise).clamp(0, 1)
        dino = self.model.dino((pixels - self.dino_mean) / self.dino_std)
        siglip = self.model.siglip((pixels - self.siglip_mean) / self.siglip_std)
        return torch.cat([dino, siglip], dim=-1).unflatten(0, (batch, cameras))

    def patch_loss(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Which patches hold the centre of which entity, and where in the patch."""
        presence, offset = _patch_labels(batch, self.model.config.dino.grid)
        entities = presence.shape[-1]
        out = self.patch_head(features).float().unflatten(-1, (entities, 3))
        weight = torch.tensor(_RARE, device=out.device)
        seen = F.binary_cross_entropy_with_logits(out[..., 0], presence, pos_weight=weight)
        error = ((out[..., 1:] - offset).abs() * presence[..., None]).sum()
        return 3 * seen + error / presence.sum().clamp(min=1) / 2

    def forward(
        self,
        batch: Batch,
        augment: bool = True,
        kept: int | None = None,
        by_attention: bool = False,
    ) -> tuple[Losses, torch.Tensor]:
        """Losses and predicted normalised actions [B, C, 7].

        kept: visual tokens that stay behind the pointing layer; None: all of them. by_attention:
        those are the ones attended to, and fewer further down (training/dropping.py).
        """
        features = self.features(batch.images, augment)
        visual = self.model.projector(features.flatten(1, 2))
        states, middle, grounding = self._decode(visual, batch, kept, by_attention)
        chunk = batch.actions.shape[1]
        predicted = self.model.action_head(states).float().unflatten(0, (-1, chunk))
        per_dim = (predicted - batch.actions).abs().mean((0, 1))
        action = (per_dim[:3].sum() + per_dim[3:6].mean() + per_dim[6]) / 5
        presence, _ = _patch_labels(batch, self.model.config.dino.grid)
        losses = Losses(
            action,
            self.patch_loss(features, batch),
            self._pointing_loss(middle, presence, batch),
            self._offset_loss(states, batch),
            grounding,
            per_dim.detach(),
            self.grounding,
        )
        return losses, predicted

    def _decode(
        self, visual: torch.Tensor, batch: Batch, kept: int | None, by_attention: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read-out states [B, A, D], visual tokens [B, V, D] of the pointing layer, grounding."""
        model, size = self.model, len(visual)
        table = model.decoder.embed_tokens
        text = table(batch.ids)
        stop = table(torch.full((size, 1), STOP_ID, device=visual.device))
        proprio = model.proprio_projector(batch.proprio)[:, None]
        tokens = batch.actions.shape[1] * batch.actions.shape[2]
        zeros = visual.new_zeros(size, tokens, visual.shape[-1])
        parts = [text[:, :1], visual, proprio, text[:, 1:], zeros, stop]
        hidden = torch.cat([part.to(visual.dtype) for part in parts], dim=1)
        tables = model.decoder.rope_tables(hidden.shape[1], hidden)
        middle, losses = hidden, []
        # Rows from the end: text, placeholders, stop. Those that the head reads stand one earlier.
        seeing = (slice(-tokens - text.shape[1], -1 - tokens), slice(-2 - tokens, -2))
        grid, depth = model.config.dino.grid, len(model.decoder.layers)
        # In a decoder of few layers some of them stand before the first drop, where none is due.
        later = {int(part * depth) for part in LATER if int(part * depth) > _POINTING_LAYER}
        later = later if by_attention and kept else set()
        patches = torch.arange(visual.shape[1], device=visual.device).expand(size, -1)
        looking = bool(self.grounding) or by_attention
        if looking:
            cameras, named = named_patches(batch, grid, None)
        for index, layer in enumerate(model.decoder.layers):
            if index and looking:
                seen = visual_attention(layer, hidden, tables, seeing, patches.shape[1])
                if self.grounding:
                    losses += [grounding_loss(attention, cameras, named) for attention in seen]
            if index in later:
                count = int(LATER_KEPT * patches.shape[1])
                chosen = attended_patches(seen[1], cameras, count)
                hidden, tables = select_rows(hidden, tables, chosen, patches.shape[1])
                patches = patches.gather(1, chosen)
                cameras, named = named_patches(batch, grid, patches)
            hidden = layer(hidden, attention_mask=None, position_embeddings=tables)
            if index == _POINTING_LAYER:
                middle = hidden[:, 1 : 1 + visual.shape[1]]
                if kept is not None:
                    if by_attention:
                        patches = attended_patches(seen[0], cameras, kept)
                    else:
                        patches = kept_patches(batch, grid, kept)
                    hidden, tables = select_rows(hidden, tables, patches, visual.shape[1])
                    if looking:
                        cameras, named = named_patches(batch, grid, patches)
        states = hidden[:, seeing[1]]
        grounding = torch.stack(losses).mean() if losses else hidden.new_zeros(())
        return model.decoder.norm(states), middle, grounding

    def _pointing_loss(
        self, middle: torch.Tensor, presence: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """Cross-entropy over the patches of each camera, for target and destination."""
        size, cameras, patches, _ = presence.shape
        logits = self.pointing_head(middle).float().view(size, cameras, patches, 2)
        rows = torch.arange(size, device=logits.device)
        wanted = torch.stack(
            [presence[rows, :, :, batch.target], presence[rows, :, :, batch.destination]], -1
        )  # [B, n_cam, N, 2]
        logits, wanted = logits.transpose(2, 3).flatten(0, 2), wanted.transpose(2, 3).flatten(0, 2)
        visible = wanted.sum(-1) > 0
        log_p = F.log_softmax(logits, dim=-1)
        each = -(log_p * wanted).sum(-1) * visible
        return each.sum() / visible.sum().clamp(min=1)

    def _offset_loss(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        rows = torch.arange(len(states), device=states.device)
        target = batch.positions[rows, batch.target] - batch.tool
        destination = batch.positions[rows, batch.destination] - batch.tool
        wanted = torch.cat([target, destination], dim=1) * _METRES
        return (self.offset_head(states.mean(1)).float() - wanted).abs().mean()


def _patch_labels(batch: Batch, grid: int) -> tuple[torch.Tensor, torch.Tensor]:
    """presence [B, n_cam, N, E] and offset [B, n_cam, N, E, 2] within the patch, in [-0.5, 0.5]."""
    pixels = batch.pixels  # [B, n_cam, E, 2]
    cell = torch.floor(pixels / PATCH)
    inside = torch.isfinite(pixels).all(-1) & (cell >= 0).all(-1) & (cell < grid).all(-1)
    size, cameras, entities, _ = pixels.shape
    presence = pixels.new_zeros(size, cameras, grid * grid, entities)
    offset = pixels.new_zeros(size, cameras, grid * grid, entities, 2)
    b, c, e = torch.nonzero(inside, as_tuple=True)
    place = cell[b, c, e]
    index = (place[:, 1] * grid + place[:, 0]).long()
    presence[b, c, index, e] = 1.0
    offset[b, c, index, e] = (pixels[b, c, e] - place * PATCH) / PATCH - 0.5
    return presence, offset
