"""The loss that makes attention look at what the instruction names.

Most pruning methods here rank patches by attention, on the premise, said to hold for large
pretrained models, that it marks what matters. A small network trained on actions alone spreads its
attention anywhere. The loss is the same for all layers but the first and for text and action rows
alike, so that it favours no method over another.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

#: Of a camera's attention, what is wanted on each named thing that is visible; more is not asked.
ENOUGH = 0.25


def visual_attention(
    layer: nn.Module,
    hidden: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    groups: Sequence[slice],
    visual: int,
) -> list[torch.Tensor]:
    """What each group of rows of [B, n, D], the input of a decoder layer, sees.

    float32 [B, visual] each, mean over rows and heads, over the visual tokens, which are rows 1 to
    ``visual``; sums to at most 1.
    """
    attention = layer.self_attn
    states = layer.input_layernorm(hidden)
    size, length, _ = states.shape

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(size, length, -1, attention.head_dim).transpose(1, 2)

    query, key = heads(attention.q_proj(states)), heads(attention.k_proj(states))
    query, key = apply_rotary_pos_emb(query, key, *tables)
    # A decoder with fewer keys than queries shares each among as many heads.
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scale = attention.head_dim**-0.5
    seen = ((query[:, :, rows] * scale) @ key.transpose(2, 3) for rows in groups)
    return [s.float().softmax(-1)[..., 1 : 1 + visual].mean((1, 2)) for s in seen]


def grounding_loss(
    attention: torch.Tensor, cameras: torch.Tensor, named: torch.Tensor
) -> torch.Tensor:
    """Shortfall of the attention on the named things from ENOUGH, in nats; 0 where there is none.

    attention [B, V]; cameras bool [B, n_cam, V]: whose patch it is; named bool [B, n_cam, 2, V]:
    patches of target and destination. A thing without a patch in a camera does not count there.
    """
    of_camera = (attention[:, None] * cameras).sum(-1).clamp(min=1e-6)  # [B, n_cam]
    share = (attention[:, None, None] * named).sum(-1) / of_camera[..., None]
    short = (ENOUGH / share.clamp(min=1e-6)).log().clamp(min=0)
    visible = named.any(-1)
    return (short * visible).sum() / visible.sum().clamp(min=1)
