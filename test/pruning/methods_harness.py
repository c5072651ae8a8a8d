"""A small random decoder, layouts and frames to run the methods of the comparison on."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers import LlamaConfig

from specprune_ros.pruning.base import PruneSession, QueryContext, SessionResult
from specprune_ros.tokens import TokenLayout
from specprune_ros.types import Mode
from specprune_ros.vla.openvla_oft.decoder import Decoder, DecoderOutput

torch.set_num_threads(1)

WIDTH = 32
CAMERAS = ("primary", "wrist", "wrist_2")


@lru_cache
@torch.inference_mode(False)
def decoder(depth: int = 8, seed: int = 0) -> Decoder:
    """A decoder of random weights, the same for the same numbers."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Decoder(config).eval()
    with torch.no_grad():
        for layer in model.layers:
            # Sharper attention than that of fresh weights: rows must differ.
            layer.self_attn.q_proj.weight *= 4
    return model


def layout(
    cameras: int = 2, patches: int = 16, prompt: int = 20, instruction: tuple[int, int] = (9, 16)
) -> TokenLayout:
    return TokenLayout(CAMERAS[:cameras], patches, True, prompt, 56, instruction)


def embeddings(of: TokenLayout, seed: int = 0) -> torch.Tensor:
    """[1, S, D] with zero placeholders, as the model makes them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, of.length, WIDTH, generator=generator)
    x[:, of.placeholders.start : of.placeholders.stop] = 0
    return x


def frames(of: TokenLayout, seed: int = 0) -> torch.Tensor:
    """uint8 [n_cam, 14 * grid, 14 * grid, 3]."""
    generator = torch.Generator().manual_seed(seed)
    side = 14 * of.grid
    shape = (len(of.cameras), side, side, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def repainted(frame: torch.Tensor, camera: int, patches: list[int], seed: int = 9) -> torch.Tensor:
    """A copy in which these patches of one camera look quite different."""
    generator = torch.Generator().manual_seed(seed)
    frame, grid = frame.clone(), frame.shape[1] // 14
    for patch in patches:
        row, column = 14 * (patch // grid), 14 * (patch % grid)
        noise = torch.randint(0, 256, (14, 14, 3), generator=generator, dtype=torch.uint8)
        frame[camera, row : row + 14, column : column + 14] = noise
    return frame


def context(of: TokenLayout, depth: int = 8, **known) -> QueryContext:
    values = {
        "layout": of,
        "depth": depth,
        "device": torch.device("cpu"),
        "mode": Mode.COARSE,
        "query_number": 0,
        "frame": frames(of),
        "step_frame": None,
        "query_frame": None,
        "history": None,
    }
    return QueryContext(**{**values, **known})


@dataclass(frozen=True)
class Run:
    output: DecoderOutput
    result: SessionResult
    session: PruneSession
    layout: TokenLayout

    def visual(self, layer: int) -> set[int]:
        """Absolute positions of the patches that enter a layer."""
        return set(self.output.layer_positions[layer].tolist()) & set(self.layout.visual)

    @property
    def counts(self) -> list[int]:
        """Patches that enter each layer."""
        return [len(self.visual(l)) for l in range(len(self.output.layer_positions))]


@torch.inference_mode()
def run(
    pruner, of: TokenLayout, x: torch.Tensor | None = None, depth: int = 8, wrap=None, **known
) -> Run:
    """One query of a pruner. known: fields of the context; wrap: goes round the session."""
    session = pruner.begin(context(of, depth, **known))
    readout = torch.arange(of.readout.start, of.readout.stop)
    asked = session if wrap is None else wrap(session)
    x = embeddings(of) if x is None else x
    output = decoder(depth)(x, readout, asked)
    return Run(output, session.finish(), session, of)


def episode(pruner, of: TokenLayout, queries: int, depth: int = 8, **known) -> list[Run]:
    """Consecutive queries, each with the history of the one before, fresh embeddings each."""
    runs: list[Run] = []
    history = None
    for number in range(queries):
        now = run(
            pruner, of, embeddings(of, number), depth, query_number=number, history=history, **known
        )
        history = now.result.history
        runs.append(now)
    return runs


class Recorder:
    """Stands round a session and keeps the probe and the hidden rows of each layer."""

    def __init__(self, inner: PruneSession) -> None:
        self.inner, self.probes, self.hidden, self.entering = inner, {}, {}, {}

    def skips(self, layer):
        return self.inner.skips(layer)

    def before_layer(self, layer, state):
        state = self.inner.before_layer(layer, state)
        self.entering[layer] = state.hidden
        return state

    def keys_values(self, layer, state, key, value):
        return self.inner.keys_values(layer, state, key, value)

    def after_layer(self, layer, state, attention):
        self.probes[layer], self.hidden[layer] = attention, state.hidden
        self.inner.after_layer(layer, state, attention)


class Perturbing(Recorder):
    """Adds noise to some absolute positions just before a layer's rows are chosen."""

    def __init__(self, inner: PruneSession, layer: int, positions: set[int]) -> None:
        super().__init__(inner)
        self.layer, self.positions = layer, positions

    def before_layer(self, layer, state):
        if layer == self.layer:
            hidden = state.hidden.clone()
            for row, position in enumerate(state.positions.tolist()):
                if position in self.positions:
                    hidden[0, row] += 100.0
            state = state.with_hidden(hidden)
        return super().before_layer(layer, state)


def recorded(pruner, of: TokenLayout, x=None, depth: int = 8, **known) -> tuple[Run, Recorder]:
    kept = []

    def wrap(session):
        kept.append(Recorder(session))
        return kept[0]

    return run(pruner, of, x, depth, wrap, **known), kept[0]


def attention_of(recorder: Recorder, layer: int, rows) -> np.ndarray:
    """Head-averaged attention [Q, m] of some rows, worked out from queries and keys by numpy."""
    probe = recorder.probes[layer]
    index = [probe.positions.tolist().index(r) for r in rows]
    q = probe.query[0].numpy().astype(np.float64)[:, index]
    k = probe.key[0].numpy().astype(np.float64).repeat(2, axis=0)
    logits = q @ k.transpose(0, 2, 1) * probe.scaling
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).mean(0)


def bit_equal(a: Run, b: Run) -> bool:
    return torch.equal(a.output.states, b.output.states)
