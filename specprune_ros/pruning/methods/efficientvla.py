"""EfficientVLA (Yang et al., arXiv 2506.10100): fewer layers, and task plus diverse patches.

    layers:  I_l = 1 - mean over tokens of cos(x^l, x^(l+1));  the least important are passed by
    tokens:  r_v = sum over instruction tokens j of mean_h a_h(v, j), after the second layer;
             V_key = top K_key of r;  V_task = next alpha (K - K_key) of r;
             V_div = the rest by largest 1 - max over k in V_key of cos(x_v, x_k)

Left out: MLP sparsification (changes weights) and the cache of diffusion features (no such head).
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterable, Literal, Sequence

import torch
import torch.nn.functional as F

from specprune_ros.errors import ConfigurationError, MethodUnavailable
from specprune_ros.pruning.base import (
    Attention,
    PruneSession,
    QueryContext,
    SessionResult,
    Tokens,
)
from specprune_ros.pruning.checks import check_types
from specprune_ros.pruning.methods.common import (
    DropSession,
    Method,
    check_boundaries,
    check_choice,
    check_keep,
    instruction_rows,
    kept_count,
    mean_attention,
    scaled_boundary,
)
from specprune_ros.pruning.schedule import REFERENCE_DEPTH

# Layer part --------------------------------------------------------------------------------


def _change(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """1 - cosine of the residual stream before and after a layer, mean over tokens: scalar."""
    cosine = F.cosine_similarity(before.float(), after.float(), dim=-1)
    return 1.0 - cosine.mean()


def calibrate_layer_importance(samples: Iterable[Sequence[torch.Tensor]]) -> torch.Tensor:
    """I_l float32 [L] from dense queries; each sample is x^0 .. x^L, L + 1 tensors [..., S, D].

    The queries of several tasks make the list of a checkpoint; give the result to
    :meth:`EfficientVLA.calibrated`. :class:`LayerCalibration` measures it while a policy runs.
    """
    per_sample = [
        torch.stack([_change(a, b) for a, b in zip(states, states[1:])]) for states in samples
    ]
    if not per_sample:
        raise ConfigurationError("layer importance needs the hidden states of one query at least")
    return torch.stack(per_sample).mean(0)


def least_important(importance: torch.Tensor, count: int, protected: set[int]) -> tuple[int, ...]:
    """The ``count`` layers of smallest importance outside ``protected``, ascending.

    Ties go to the lower index. Raises MethodUnavailable where too few layers may go.
    """
    order = torch.sort(importance.float().cpu(), stable=True).indices.tolist()
    free = [layer for layer in order if layer not in protected]
    if len(free) < count:
        raise MethodUnavailable(
            f"efficientvla is to remove {count} layers, but only {len(free)} of the "
            f"{len(importance)} may go: raise layers_kept"
        )
    return tuple(sorted(free[:count]))


@dataclass(frozen=True)
class LayerImportance:
    """Sum of I_l over dense queries: total float32 [L]."""

    total: torch.Tensor
    queries: int

    @property
    def mean(self) -> torch.Tensor:
        return self.total / self.queries


class LayerCalibrationSession(PruneSession):
    """A dense query that measures what each layer changes. ``finish`` adds it to the history."""

    def __init__(self, context: QueryContext) -> None:
        super().__init__(context)
        self._before: torch.Tensor | None = None
        self._changes: list[torch.Tensor] = []

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        self._before = state.hidden
        return state

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        self._changes.append(_change(self._before, state.hidden))

    def finish(self) -> SessionResult:
        total, queries = torch.stack(self._changes).cpu(), 1
        earlier = self.context.history
        if isinstance(earlier, LayerImportance):
            total, queries = total + earlier.total, queries + earlier.queries
        kept = super().finish()
        return replace(kept, history=LayerImportance(total, queries), dense_refresh=True)


class LayerCalibration:
    """Dense queries that calibrate the layer part, all those of an episode together.

        policy.set_pruning(LayerCalibration())
        episode = policy.make_episode()
        for observation in observations:
            policy.predict(observation, episode)
        policy.set_pruning(EfficientVLA().calibrated(episode.state.history.mean))

    An episode has one instruction; average the means of several episodes.
    """

    name = "efficientvla_calibration"

    def begin(self, context: QueryContext) -> PruneSession:
        return LayerCalibrationSession(context)


# Token part --------------------------------------------------------------------------------


def select_tokens(
    relevance: torch.Tensor, features: torch.Tensor, count: int, key_tokens: int, alpha: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Indices of V_key, V_task and V_div, disjoint, ``count`` together.

    relevance [n]; features [n, D]. Diversity is to V_key only, as in the paper: patches alike that
    are far from V_key may all be taken.
    """
    order = torch.sort(relevance, descending=True, stable=True).indices
    key_count = min(key_tokens, count)
    task_count = int(alpha * (count - key_count))
    key, task = order[:key_count], order[key_count : key_count + task_count]
    rest = order[key_count + task_count :].sort().values
    unit = F.normalize(features.float(), dim=-1)
    alike = unit[rest] @ unit[key].T
    diversity = 1.0 - alike.amax(1) if key_count else rest.new_zeros(len(rest)).float()
    chosen = torch.sort(diversity, descending=True, stable=True).indices
    return key, task, rest[chosen[: count - key_count - task_count]]


@dataclass(frozen=True)
class EfficientVLAConfig:
    """keep: 112 of 512 patches (also the paper's 56 of 256). boundary: for 32 layers.

    layers_kept: of 32, the paper's 28 or 22; 32 turns the layer part off. removed_layers: layers of
    this very checkpoint to pass by, from a calibration; None: the first query of an episode is
    dense and measures the importance that the later ones use.
    direction: whose attention ranks patches; ``vision_to_text`` is the paper's.
    """

    name: str = "efficientvla"
    keep: float = 112 / 512
    boundary: int = 2
    layers_kept: int = 28
    removed_layers: tuple[int, ...] | None = None
    key_tokens: int = 4
    alpha: float = 0.5
    direction: Literal["vision_to_text", "text_to_vision"] = "vision_to_text"

    def __post_init__(self) -> None:
        check_types(self)
        check_keep(self.name, self.keep)
        check_boundaries(self.name, self.boundary)
        choices = ("vision_to_text", "text_to_vision")
        check_choice(self.name, "direction", self.direction, choices)
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigurationError(f"{self.name}: alpha must lie in [0, 1]")
        if not 1 <= self.layers_kept <= REFERENCE_DEPTH:
            raise ConfigurationError(f"{self.name}: layers_kept must lie in 1..{REFERENCE_DEPTH}")
        if self.boundary < 1 or self.key_tokens < 1:
            raise ConfigurationError(f"{self.name}: boundary and key_tokens must be >= 1")

    def removed_count(self, depth: int) -> int:
        """Layers to remove of a decoder of this depth."""
        return int((REFERENCE_DEPTH - self.layers_kept) * depth / REFERENCE_DEPTH + 0.5)

    def protected(self, depth: int) -> set[int]:
        """Layers that are never removed: the first, the last, the one that scores."""
        return {0, depth - 1, scaled_boundary(self.boundary, depth) - 1}


class EfficientVLASession(DropSession):
    def __init__(
        self, context: QueryContext, config: EfficientVLAConfig, removed: tuple[int, ...]
    ) -> None:
        super().__init__(context)
        self.config = config
        self.removed = frozenset(removed)
        self.boundary = scaled_boundary(config.boundary, context.depth)
        self.count = kept_count(config.keep, self.layout.visual_tokens)

    def skips(self, layer: int) -> bool:
        return layer in self.removed

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        if layer != self.boundary - 1 or self.count >= self.layout.visual_tokens:
            return
        features = state.hidden[0, self.patches(state.positions)]
        sets = select_tokens(
            self._relevance(attention),
            features,
            self.count,
            self.config.key_tokens,
            self.config.alpha,
        )
        self.keep_patches(self.boundary, state, torch.cat(sets).sort().values)

    def _relevance(self, attention: Attention) -> torch.Tensor:
        """r [V]; min-max normalisation would not change any selection."""
        text = instruction_rows(self.layout, attention.positions.device, self.config.name)
        if self.config.direction == "text_to_vision":
            scores = mean_attention(attention, text)
            return scores[self.patches(attention.key_positions)]
        visual = attention.positions[self.patches(attention.positions)]
        return attention.weights(visual, text).mean(0).sum(-1)

    def finish(self) -> SessionResult:
        return self.result(self.context.history, details={"layers_removed": len(self.removed)})


class EfficientVLA(Method):
    Config = EfficientVLAConfig

    def calibrated(self, importance: torch.Tensor) -> EfficientVLA:
        """The method with the layer list that this importance [L] gives, for every query."""
        depth = len(importance)
        removed = least_important(
            importance, self.config.removed_count(depth), self.config.protected(depth)
        )
        return type(self)(replace(self.config, removed_layers=removed))

    def begin(self, context: QueryContext) -> PruneSession:
        config, depth = self.config, context.depth
        count = config.removed_count(depth)
        if config.removed_layers is not None:
            removed = config.removed_layers
            protected = config.protected(depth)
            wrong = [l for l in removed if l in protected or not 0 <= l < depth]
            if wrong:
                raise ConfigurationError(
                    f"{config.name}: layer {wrong[0]} cannot be removed from {depth} layers: the "
                    f"first, the last and the scoring one ({sorted(protected)}) must stay"
                )
        elif count == 0:
            removed = ()
        elif isinstance(context.history, LayerImportance):
            removed = least_important(context.history.mean, count, config.protected(depth))
        else:
            return LayerCalibrationSession(context)
        return EfficientVLASession(context, config, removed)
