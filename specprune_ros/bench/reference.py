"""Arm a: a dense query as the reference code runs it, with what it computes in vain.

All blocks of both towers, camera by camera; rotary angles anew in every layer; all hidden states
kept; vocabulary scores of every token, in float32; the action head reads the same rows.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from specprune_ros.pruning.base import DensePruner, Pruner, PruneSession
from specprune_ros.runtime.execution import Execution, Query
from specprune_ros.runtime.timing import StageClock
from specprune_ros.tokens import TokenLayout
from specprune_ros.vla.openvla_oft.model import LoadedCheckpoint, TextInput
from specprune_ros.vla.openvla_oft.vision import VisionTower, build_dino, build_siglip


class ReferenceExecutor:
    """Runs dense queries only. Its last blocks and vocabulary scores have random weights where the
    checkpoint's are not at hand: nothing is read off them.
    """

    name = "reference"

    def __init__(self, loaded: LoadedCheckpoint) -> None:
        self._model = model = loaded.model
        hidden, vocabulary = model.config.llama.hidden_size, model.config.llama.vocab_size
        like = model.decoder.norm.weight
        self._last_blocks = [_last_block(tower, like) for tower in (model.dino, model.siglip)]
        self._lm_head = _random(nn.Linear(hidden, vocabulary, bias=False, device="meta"), like)
        self._rotary = LlamaRotaryEmbedding(model.config.llama).to(like.device)
        for layer in model.decoder.layers:
            layer.self_attn.is_causal = False  # as the reference's mask says

    def check(self, pruner: Pruner) -> None:
        assert isinstance(pruner, DensePruner)

    def clock(self) -> StageClock:
        return StageClock(self._model.device)

    def prepare(
        self, layouts: Sequence[TokenLayout], depth: int, pruner: Pruner, reuse: bool = False
    ) -> None:
        pass

    @torch.inference_mode()
    def run(self, query: Query, pruner: Pruner, clock: StageClock) -> Execution:
        model, layout = self._model, query.context.layout
        with clock("vision"):
            pixels = model.pixel_values(query.context.frame.to(model.device)).to(model.dtype)
            cameras = [self._features(camera[None]) for camera in pixels]
            features = torch.cat(cameras, dim=1)
        with clock("projector"):
            arrays = TextInput.arrays(query.prompt, layout, layout.length - layout.text_start)
            ids, shown = (torch.from_numpy(array).to(model.device) for array in arrays)
            vector = None
            if query.proprio is not None:
                vector = torch.as_tensor(query.proprio, dtype=torch.float32).to(model.device)
            embeddings = model.embed(
                model.projector(features), TextInput(ids, shown[:, None]), vector
            )
        with clock("decoder"):
            states = self._decode(embeddings)
            picked = states[0, layout.readout.start : layout.readout.stop]
        with clock("head"):
            actions = model.actions(model.read(picked).cpu())
        rows = np.arange(layout.length)
        depth = query.context.depth
        finished = PruneSession(query.context).finish()
        return Execution(actions, (rows,) * depth, (layout.length,) * depth, finished)

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """[1, 6, S, S] -> [1, N, F]; every block runs, the output of the last but one is used."""
        found = []
        parts = zip((self._model.dino, self._model.siglip), self._last_blocks, pixels.split(3, 1))
        for tower, last, part in parts:
            x = tower.embed(part)
            for block in tower.blocks:
                x = block(x, None)
            last(x, None)
            found.append(x[:, -tower.config.patches :])
        return torch.cat(found, dim=-1)

    def _decode(self, hidden: torch.Tensor) -> torch.Tensor:
        """Final-norm states of all rows."""
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        kept = [hidden]
        for layer in self._model.decoder.layers:
            angles = self._rotary(hidden, positions)
            hidden = layer(hidden, attention_mask=None, position_embeddings=angles)
            kept.append(hidden)
        states = self._model.decoder.norm(hidden)
        self._lm_head(states).float()
        return states


def _last_block(tower: VisionTower, like: torch.Tensor) -> nn.Module:
    build = build_dino if tower.has_prefix else build_siglip
    with torch.device("meta"):
        block = build(tower.config).blocks[-1]
    return _random(block, like)


def _random(module: nn.Module, like: torch.Tensor) -> nn.Module:
    """Meta parameters filled with small random values of the type and device of ``like``."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            made = torch.empty(parameter.shape, dtype=like.dtype, device=like.device)
            setattr(part, name, nn.Parameter(made.normal_(std=0.02), requires_grad=False))
    return module.eval()
