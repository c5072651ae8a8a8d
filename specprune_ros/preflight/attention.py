"""Whether the decoder's attention is really bidirectional: measured on the loaded network.

OpenVLA-OFT was trained without a mask. A causal one (a default of some version below, an attention
kernel of another kind) raises no error, and success drops to about a half.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..policy import Policy
from ..pruning.base import Attention, PruneSession, QueryContext, Tokens
from ..types import Observation
from .findings import Finding, fail, ok

_NAME = "attention"
_SEED = 0


@dataclass(frozen=True)
class AttentionReach:
    """What the last token of a dense query can reach.

    blind: decoder layer -> rows before the last one whose output does not depend on it.
    rows: of the query. action_change: largest change of the normalised actions, which are read from
    rows before it.
    """

    blind: dict[int, int]
    rows: int
    layers: int
    action_change: float


def measure_reach(policy: Policy, cameras: tuple[str, ...]) -> AttentionReach:
    """Three dense queries on noise: with nothing to attend to, and with the last token alone.

    Keys are all equal, so that attention weighs every token alike whatever the weights are; values
    are zero but for those of the last token. A row changes if, and only if, it sees that token.
    """
    observation = noise(policy, cameras)
    before = _Recorder()
    silent = policy.with_pruning(_Probe(0.0, before)).predict(observation)
    comparer = _Comparer(before.inputs)
    policy.with_pruning(_Probe(1.0, comparer)).predict(observation)
    loud = policy.with_pruning(_Probe(1.0, None)).predict(observation)
    change = np.abs(loud.normalized_actions - silent.normalized_actions).max()
    return AttentionReach({layer: count for layer, count in comparer.blind.items() if count},
                          comparer.rows, len(comparer.blind), float(change))


def check_attention(policy: Policy, cameras: tuple[str, ...]) -> Finding:
    """FAIL if rows do not see what comes after them, in any layer."""
    reach = measure_reach(policy, cameras)
    if not reach.blind and reach.action_change > 0:
        return ok(_NAME, f"bidirectional: in all {reach.layers} layers every row sees the last "
                         f"token; the actions, which are read before it, change by "
                         f"{reach.action_change:.2g}")
    worst = max(reach.blind.values(), default=0)
    text = (f"not bidirectional: in {len(reach.blind)} of {reach.layers} layers (the first is "
            f"{min(reach.blind)}) up to {worst} of {reach.rows - 1} rows do not see the last "
            f"token; the actions change by {reach.action_change:.2g} with it"
            if reach.blind else "the actions do not depend on the token after them")
    return fail(_NAME, text, "A causal mask is on, which the policy was not trained with: use the "
                             "versions of torch and transformers that setup.py asks for, and no "
                             "attention kernel that masks")


class _Recorder:
    """Keeps what enters each layer, and what leaves the last one."""

    def __init__(self) -> None:
        self.inputs: list[torch.Tensor] = []

    def before(self, layer: int, state: Tokens) -> Tokens:
        self.inputs.append(state.hidden.cpu())
        return state

    def after(self, layer: int, state: Tokens, last: bool) -> None:
        if last:
            self.inputs.append(state.hidden.cpu())


class _Comparer:
    """Feeds each layer what it got before, and counts the rows that come out unchanged."""

    def __init__(self, inputs: list[torch.Tensor]) -> None:
        self._inputs = inputs
        self.blind: dict[int, int] = {}
        self.rows = inputs[0].shape[1]

    def before(self, layer: int, state: Tokens) -> Tokens:
        return state.with_hidden(self._inputs[layer].to(state.hidden.device))

    def after(self, layer: int, state: Tokens, last: bool) -> None:
        same = (state.hidden.cpu() == self._inputs[layer + 1])[0].all(dim=-1)  # [n]
        self.blind[layer] = int(same[:-1].sum())


class _Probe:
    """A pruner that keeps everything and puts its own keys and values before the attention."""

    name = "attention_probe"
    looks_back = False

    def __init__(self, level: float, watch: _Recorder | _Comparer | None) -> None:
        self.level, self.watch = level, watch

    def begin(self, context: QueryContext) -> PruneSession:
        return _ProbeSession(context, self)


class _ProbeSession(PruneSession):

    def __init__(self, context: QueryContext, probe: _Probe) -> None:
        super().__init__(context)
        self._probe = probe

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        watch = self._probe.watch
        return state if watch is None else watch.before(layer, state)

    def keys_values(self, layer: int, state: Tokens, key: torch.Tensor, value: torch.Tensor
                    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        key, value = torch.zeros_like(key), torch.zeros_like(value)
        # Times the number of tokens: its share of the attention makes that the level again.
        value[:, :, -1] = self._probe.level * value.shape[2]
        return key, value, state.positions

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        if self._probe.watch is not None:
            self._probe.watch.after(layer, state, layer == self.context.depth - 1)


def noise(policy: Policy, cameras: Sequence[str]) -> Observation:
    """An observation of random pictures, always the same, at stamp 0."""
    rng = np.random.default_rng(_SEED)
    size = policy.model.config.image_size
    images = {name: rng.integers(0, 256, (size, size, 3), np.uint8) for name in cameras}
    proprio = policy.statistics.proprio.low if policy.uses_proprio else None
    return Observation(images, "check the attention", proprio, stamp=0.0)
