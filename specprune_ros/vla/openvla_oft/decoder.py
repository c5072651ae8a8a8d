"""The Llama decoder, bidirectional and prefill-only, with fixed points at which a pruner is asked.

Rows are really dropped; positions (and with them the RoPE angles) stay those of the full sequence.
With batch 1 and no padding the mask of OpenVLA-OFT's bidirectional attention is no mask at all.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterator, Protocol, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from specprune_ros.errors import ConfigurationError
from specprune_ros.vla.openvla_oft.elementwise import rms_norm
from specprune_ros.vla.openvla_oft.int8 import Int8Layer
from specprune_ros.vla.openvla_oft.layers import FusedLayer, LayerMath, PlainLayer
from specprune_ros.vla.openvla_oft.weights import Source

#: Absolute positions int64 [n], or a slice of what is alive.
Places = torch.Tensor | slice
_PROBE_ROWS = 64  # rows of attention computed at once; the read-out rows of LIBERO are 56


@dataclass(frozen=True)
class TokenState:
    """The rows that are alive, in ascending order of absolute position.

    hidden [1, n, D]; positions [n] int64; cos, sin [1, n, head_dim]. real [n] bool: False for
    padding, to which nothing attends; None where there is none.
    """

    hidden: torch.Tensor
    positions: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    real: torch.Tensor | None = None

    def select(self, rows: torch.Tensor, padded: bool = True) -> TokenState:
        """Keep these rows (indices into the present ones, ascending).

        padded: whether padding may be among them, if there is any.
        """
        real = self.real if padded else None
        return TokenState(
            self.hidden.index_select(1, rows),
            self.positions.index_select(0, rows),
            self.cos.index_select(1, rows),
            self.sin.index_select(1, rows),
            None if real is None else real.index_select(0, rows),
        )

    def with_hidden(self, hidden: torch.Tensor) -> TokenState:
        return replace(self, hidden=hidden)


@dataclass(frozen=True)
class AttentionProbe:
    """What one layer attended to, recomputed on demand for a few rows only.

    positions [n]: absolute positions of the query rows; key_positions [m] of the keys. real [m]
    bool: False for keys that are padding; None where there is none.
    """

    query: torch.Tensor  # [1, H, n, head_dim], rotated
    key: torch.Tensor  # [1, H_kv, m, head_dim], rotated
    scaling: float
    positions: torch.Tensor
    key_positions: torch.Tensor
    real: torch.Tensor | None = None

    def weights(self, rows: Places, keys: Places | None = None) -> torch.Tensor:
        """float32 [H, Q, m]: post-softmax attention of these rows over all alive keys.

        rows, keys: absolute positions, ascending, or a slice of the rows (keys) alive. keys: give
        only these columns, [H, Q, K]. The softmax runs over all keys either way, for a block of
        rows at a time.
        """
        query = _pick(self.query[0], 1, self.positions, rows).float()  # [H, Q, d]
        key = self.key[0].float()  # [H_kv, m, d]
        if len(key) != len(query):
            key = key.repeat_interleave(len(query) // len(key), dim=0)
        query, key = query * self.scaling, key.transpose(1, 2)
        if query.shape[1] <= _PROBE_ROWS:
            return self._block(query, key, keys)
        blocks = [self._block(block, key, keys) for block in query.split(_PROBE_ROWS, dim=1)]
        return torch.cat(blocks, dim=1)

    def _block(
        self, query: torch.Tensor, key: torch.Tensor, keys: Places | None
    ) -> torch.Tensor:
        logits = query @ key
        if self.real is not None:
            logits = logits.masked_fill(~self.real, -torch.inf)
        weights = torch.softmax(logits, dim=-1)
        return weights if keys is None else _pick(weights, 2, self.key_positions, keys)


def _pick(values: torch.Tensor, dim: int, positions: torch.Tensor, wanted: Places) -> torch.Tensor:
    """Entries along a dimension by absolute position (both lists ascend), or by slice.

    Positions that lie side by side give a view. Only the CPU can tell without waiting for a device.
    """
    if isinstance(wanted, slice):
        return values.narrow(dim, wanted.start, wanted.stop - wanted.start)
    if wanted.device.type == "cpu" and len(wanted):
        first, last = positions.numpy().searchsorted(wanted.numpy()[[0, -1]])
        if last - first == len(wanted) - 1:
            return values.narrow(dim, int(first), len(wanted))
    return values.index_select(dim, torch.searchsorted(positions, wanted))


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
        self._fused: list[LayerMath] | None = None
        self.int8 = False

    def fuse(self) -> None:
        """Join the matrices that read the same rows, for inference; weights stop training."""
        if self._fusible:
            self._fused = [FusedLayer.of(layer) for layer in self.layers]

    @property
    def _fusible(self) -> bool:
        config = self.config
        return config.hidden_act == "silu" and not (config.attention_bias or config.mlp_bias)

    def to_int8(self) -> None:
        """Round the matrices of all layers to int8, for good; needs no more memory than one more
        layer. Raises ConfigurationError for layers that are not those of Llama.
        """
        if not self._fusible:
            raise ConfigurationError(
                "weights 'int8' needs layers without bias and with SiLU, as Llama's are: use "
                "weights 'full'"
            )
        self._fused = None  # would keep the matrices of all layers
        self._fused, self.int8 = [Int8Layer.of(layer) for layer in self.layers], True

    @property
    def int8_bytes(self) -> int:
        """Bytes of the matrices that were rounded."""
        return sum(layer.nbytes for layer in self._fused) if self.int8 else 0

    def layer_math(self, fused: bool = True) -> list[LayerMath]:
        """The arithmetic of each layer; ``fused=False`` leaves fused matrices aside, but for int8,
        which has no others."""
        if (fused or self.int8) and self._fused is not None:
            return self._fused
        return [PlainLayer(layer) for layer in self.layers]

    def _apply(self, fn, recurse: bool = True):
        if self.int8:
            raise ConfigurationError(
                "int8 weights can neither be moved nor converted: load the checkpoint anew"
            )
        # Moved or converted, parameters are tensors of their own again.
        super()._apply(fn, recurse)
        self._rotary = self._tables = None
        if self._fused is not None:
            self.fuse()
        return self

    def rope_tables(self, length: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin [1, length, head_dim], computed once and sliced."""
        if self._tables is None or self._tables[0].shape[1] < length:
            if self._rotary is None:
                self._rotary = LlamaRotaryEmbedding(self.config).to(like.device)
            positions = torch.arange(max(length, 1024), device=like.device)[None]
            self._tables = self._rotary(like, positions)
        return self._tables[0][:, :length], self._tables[1][:, :length]

    def forward(
        self,
        embeddings: torch.Tensor,
        readout: torch.Tensor,
        session: DecoderSession,
        real: torch.Tensor | None = None,
        fused: bool = True,
    ) -> DecoderOutput:
        """embeddings [1, S, D] of the full sequence; readout [R] absolute positions.

        real [S] bool: False for padding rows. fused: use the fused matrices where there are.
        Raises ConfigurationError for a batch: rows are dropped for one query at a time.
        """
        batch, length = embeddings.shape[:2]
        if batch != 1:
            raise ConfigurationError(f"the decoder runs one query at a time, not {batch}")
        cos, sin = self.rope_tables(length, embeddings)
        positions = torch.arange(length, device=embeddings.device)
        state = TokenState(embeddings, positions, cos, sin, real)
        bias = _Bias()
        layer_positions, layer_keys = [], []
        for index, math in enumerate(self.layer_math(fused)):
            state = session.before_layer(index, state)
            layer_positions.append(state.positions)
            if session.skips(index):
                layer_keys.append(0)
                continue
            state, probe = self._run_layer(math, index, state, session, bias.of(state))
            layer_keys.append(probe.key.shape[2])
            session.after_layer(index, state, probe)
        rows = torch.searchsorted(state.positions, readout)
        picked = state.hidden[0].index_select(0, rows)
        states = rms_norm(picked, self.norm.weight, self.norm.variance_epsilon)
        return DecoderOutput(states, tuple(layer_positions), tuple(layer_keys))

    def run_layers(
        self, hidden: torch.Tensor, layers: Sequence[int], session: DecoderSession
    ) -> torch.Tensor:
        """Rows [1, n, D] after some layers, at positions 0 to n - 1."""
        cos, sin = self.rope_tables(hidden.shape[1], hidden)
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        state, math = TokenState(hidden, positions, cos, sin), self.layer_math()
        for index in layers:
            state, _ = self._run_layer(math[index], index, state, session, None)
        return state.hidden

    def _run_layer(
        self,
        math: LayerMath,
        index: int,
        state: TokenState,
        session: DecoderSession,
        bias: torch.Tensor | None,
    ) -> tuple[TokenState, AttentionProbe]:
        attention = self.layers[index].self_attn
        query, key, value = math.project(state.hidden, state.cos, state.sin)
        key, value, key_positions = session.keys_values(index, state, key, value)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias,
            scale=attention.scaling,
            enable_gqa=attention.num_key_value_groups > 1,
        )
        attended = attended.transpose(1, 2).reshape(1, query.shape[2], -1)
        hidden = math.finish(state.hidden, attended)
        probe = AttentionProbe(
            query, key, attention.scaling, state.positions, key_positions, state.real
        )
        return state.with_hidden(hidden), probe


class _Bias:
    """What padding adds to the attention of every row, made once for the same set of rows."""

    def __init__(self) -> None:
        self._real: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None

    def of(self, state: TokenState) -> torch.Tensor | None:
        """[1, 1, n, n], 0 or -inf; None without padding."""
        if state.real is None:
            return None
        if state.real is not self._real:
            self._real = state.real
            n, hidden = len(state.positions), state.hidden
            row = torch.zeros(n, dtype=hidden.dtype, device=hidden.device)
            row.masked_fill_(~state.real, -torch.inf)
            self._bias = row.expand(1, 1, n, n)
        return self._bias


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
