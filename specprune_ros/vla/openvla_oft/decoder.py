"""The Llama decoder, bidirectional and prefill-only, with fixed points at which a pruner is asked.

Rows are really dropped; positions (and with them the RoPE angles) stay those of the full sequence.
With batch 1 and no padding the mask of OpenVLA-OFT's bidirectional attention is no mask at all.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterator, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from specprune_ros.errors import ConfigurationError
from specprune_ros.vla.openvla_oft.weights import Source

_PROBE_ROWS = 64  # rows of attention computed at once; the read-out rows of LIBERO are 56


@dataclass(frozen=True)
class TokenState:
    """The rows that are alive, in ascending order of absolute position.

    hidden [1, n, D]; positions [n] int64; cos, sin [1, n, head_dim].
    """

    hidden: torch.Tensor
    positions: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def select(self, rows: torch.Tensor) -> TokenState:
        """Keep these rows (indices into the present ones, ascending)."""
        return TokenState(
            self.hidden.index_select(1, rows),
            self.positions.index_select(0, rows),
            self.cos.index_select(1, rows),
            self.sin.index_select(1, rows),
        )

    def with_hidden(self, hidden: torch.Tensor) -> TokenState:
        return replace(self, hidden=hidden)


@dataclass(frozen=True)
class AttentionProbe:
    """What one layer attended to, recomputed on demand for a few rows only.

    positions [n]: absolute positions of the query rows; key_positions [m] of the keys.
    """

    query: torch.Tensor  # [1, H, n, head_dim], rotated
    key: torch.Tensor  # [1, H_kv, m, head_dim], rotated
    scaling: float
    positions: torch.Tensor
    key_positions: torch.Tensor

    def weights(
        self, query_positions: torch.Tensor, keys: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [H, Q, m]: post-softmax attention of these rows over all alive keys.

        keys [K]: give only the columns of these absolute positions, [H, Q, K]. The softmax runs
        over all keys either way, for a block of rows at a time.
        """
        rows = torch.searchsorted(self.positions, query_positions)
        columns = None if keys is None else torch.searchsorted(self.key_positions, keys)
        query = self.query[0].index_select(1, rows).float()  # [H, Q, d]
        key = self.key[0].float()  # [H_kv, m, d]
        if len(key) != len(query):
            key = key.repeat_interleave(len(query) // len(key), dim=0)
        blocks = []
        for block in query.split(_PROBE_ROWS, dim=1):
            weights = torch.softmax(block @ key.transpose(1, 2) * self.scaling, dim=-1)
            blocks.append(weights if columns is None else weights.index_select(2, columns))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


class DecoderSession(Protocol):
    """What the decoder asks of a pruner during one query. Called in this order for each layer."""

    def before_layer(self, layer: int, state: TokenState) -> TokenState:
        """The rows that shall enter the layer, or pass by it."""

    def skips(self, layer: int) -> bool:
        """Whether the whole layer is passed by (its weights are then never read)."""

    def keys_values(
        self, layer: int, state: TokenState, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys, values [1, H_kv, m, d] and key positions [m] that the rows shall attend to."""

    def after_layer(self, layer: int, state: TokenState, attention: AttentionProbe) -> None:
        """Look at the layer's output rows and, through the probe, at what it attended to."""


@dataclass(frozen=True)
class DecoderOutput:
    """states [R, D]: final-norm states of the rows asked for; positions per layer; key counts."""

    states: torch.Tensor
    layer_positions: tuple[torch.Tensor, ...]
    layer_keys: tuple[int, ...]  # 0 for a skipped layer


class Decoder(nn.Module):
    """Embedding table, decoder layers and final norm, under Hugging Face's names."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        # Built on first use: its buffer must not be made on the meta device.
        self._rotary: LlamaRotaryEmbedding | None = None
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None

    def rope_tables(self, length: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin [1, length, head_dim], computed once and sliced."""
        if self._tables is None or self._tables[0].shape[1] < length:
            if self._rotary is None:
                self._rotary = LlamaRotaryEmbedding(self.config).to(like.device)
            positions = torch.arange(max(length, 1024), device=like.device)[None]
            self._tables = self._rotary(like, positions)
        return self._tables[0][:, :length], self._tables[1][:, :length]

    def forward(
        self, embeddings: torch.Tensor, readout: torch.Tensor, session: DecoderSession
    ) -> DecoderOutput:
        """embeddings [1, S, D] of the full sequence; readout [R] absolute positions.

        Raises ConfigurationError for a batch: rows are dropped for one query at a time.
        """
        batch, length = embeddings.shape[:2]
        if batch != 1:
            raise ConfigurationError(f"the decoder runs one query at a time, not {batch}")
        cos, sin = self.rope_tables(length, embeddings)
        positions = torch.arange(length, device=embeddings.device)
        state = TokenState(embeddings, positions, cos, sin)
        layer_positions, layer_keys = [], []
        for index, layer in enumerate(self.layers):
            state = session.before_layer(index, state)
            layer_positions.append(state.positions)
            if session.skips(index):
                layer_keys.append(0)
                continue
            state, probe = _run_layer(layer, index, state, session)
            layer_keys.append(probe.key.shape[2])
            session.after_layer(index, state, probe)
        rows = torch.searchsorted(state.positions, readout)
        states = self.norm(state.hidden[0].index_select(0, rows))
        return DecoderOutput(states, tuple(layer_positions), tuple(layer_keys))


def _run_layer(
    layer: LlamaDecoderLayer, index: int, state: TokenState, session: DecoderSession
) -> tuple[TokenState, AttentionProbe]:
    attention = layer.self_attn
    hidden = state.hidden
    n = hidden.shape[1]
    normed = layer.input_layernorm(hidden)
    query = attention.q_proj(normed).view(1, n, -1, attention.head_dim).transpose(1, 2)
    key = attention.k_proj(normed).view(1, n, -1, attention.head_dim).transpose(1, 2)
    value = attention.v_proj(normed).view(1, n, -1, attention.head_dim).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, state.cos, state.sin)
    key, value, key_positions = session.keys_values(index, state, key, value)
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        scale=attention.scaling,
        enable_gqa=attention.num_key_value_groups > 1,
    )
    attended = attended.transpose(1, 2).reshape(1, n, -1)
    hidden = hidden + attention.o_proj(attended)
    hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    probe = AttentionProbe(query, key, attention.scaling, state.positions, key_positions)
    return state.with_hidden(hidden), probe


_LAYER_NAMES = (
    *(f"self_attn.{x}_proj" for x in "qkvo"),
    *(f"mlp.{x}_proj" for x in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
)


def decoder_sources(config: LlamaConfig, target: str) -> Iterator[Source]:
    """Which tensors fill a decoder held under the name ``target``."""
    root = "language_model.model."
    for name in ("embed_tokens.weight", "norm.weight"):
        yield Source(root + name, (f"{target}.{name}",))
    for index in range(config.num_hidden_layers):
        for name in _LAYER_NAMES:
            weight = f"layers.{index}.{name}.weight"
            yield Source(root + weight, (f"{target}.{weight}",))
