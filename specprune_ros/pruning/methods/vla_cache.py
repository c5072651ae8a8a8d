"""VLA-Cache (Xu et al., arXiv 2502.02175): patches that did not change reuse last query's K and V.

    static:   cosine of a patch's pixels to a reference >= tau, the most similar ones per camera
    relevant: top attention from the text at layer 15 of the previous query; never reused
    share:    rho_l = 1 - minmax_l(mean entropy of attention rows), growth-smoothed, at four layers

Reused rows are not computed from that layer on, but stay visible as keys and values, so that
``kept_positions`` are the rows computed while the number of keys is always S. In a bidirectional
model this is approximate: K and V of a still patch depend on every other token.

``vla_cache`` is the corrected variant, ``vla_cache_release`` the rules of the released code. Left
out of the latter: its comparison of the current frame with itself, which chooses by rounding noise.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Sequence

import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import Attention, QueryContext, SessionResult, Tokens
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
    mean_row_entropy,
    scaled_boundary,
    span,
    top_indices,
)
from specprune_ros.pruning.schedule import check_layers, scale_layers
from specprune_ros.pruning.similarity import patch_similarity
from specprune_ros.tokens import TokenLayout

_PUBLISHED_PATCHES = 256  # patches per camera of the published counts


@dataclass(frozen=True)
class VLACacheConfig:
    """tau, static_max, relevant, growth: of the released code for OpenVLA-OFT, per camera of 256.

    keep: share of patches recomputed from the first boundary on; None (the method's own rule)
    lets images and attention decide. A number reuses exactly the rest, if need be below tau.
    boundaries (first layers at which more rows are reused) and relevance_layer: for 32 layers.
    shares: rho at the boundaries from a calibration, instead of the entropy of the previous query,
    which costs the full attention of every layer.
    reference: ``anchor`` compares with the pixels of the query that last computed a patch in every
    layer, ``query`` with the previous query's frame (slow drift is then never noticed).
    max_age: queries in a row that a patch may be reused, None = for ever. order: which patches are
    reused first, the most similar of all cameras in turn, or in raster order, first camera first.
    window: rows of relevance, the instruction's or the release's fixed 34 after the patches.
    at_least_one: reuse one patch even where the share says none.
    """

    name: str = "vla_cache"
    keep: float | None = None
    tau: float = 0.996
    static_max: int = 150
    relevant: int = 100
    growth: float = 0.55
    boundaries: tuple[int, ...] = (2, 6, 9, 11)
    relevance_layer: int = 15
    shares: tuple[float, ...] | None = None
    reference: Literal["anchor", "query"] = "anchor"
    max_age: int | None = 4
    order: Literal["similarity", "raster"] = "similarity"
    window: Literal["instruction", "release"] = "instruction"
    at_least_one: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if self.keep is not None:
            check_keep(self.name, self.keep)
        check_boundaries(self.name, *self.boundaries)
        check_choice(self.name, "reference", self.reference, ("anchor", "query"))
        check_choice(self.name, "order", self.order, ("similarity", "raster"))
        check_choice(self.name, "window", self.window, ("instruction", "release"))
        if not self.boundaries or min(self.boundaries) < 1:
            raise ConfigurationError(f"{self.name}: boundaries must be >= 1")
        if self.shares is not None and len(self.shares) != len(self.boundaries):
            raise ConfigurationError(f"{self.name}: give one share per boundary")
        check_layers("relevance_layer", (self.relevance_layer,))
        if self.shares is not None and not all(0.0 <= share <= 1.0 for share in self.shares):
            raise ConfigurationError(f"{self.name}: shares must lie in [0, 1]")
        if self.max_age is not None and self.max_age < 1:
            raise ConfigurationError(f"{self.name}: max_age must be >= 1 or None")
        if self.static_max < 0 or self.relevant < 0 or not 0.0 <= self.growth <= 1.0:
            raise ConfigurationError(
                f"{self.name}: static_max and relevant must be >= 0, growth in [0, 1]"
            )


@dataclass(frozen=True)
class CachedQuery:
    """What the next query may reuse.

    keys, values: per layer [1, H_kv, S, d]. relevance float32 [n_cam, N]. shares: rho per layer.
    reference uint8 [n_cam, H, W, 3]: pixels to compare with. age int64 [n_cam, N]: queries since a
    patch was last computed in every layer. All but keys and values lie on the host.
    """

    layout: TokenLayout
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    relevance: torch.Tensor
    shares: tuple[float, ...]
    reference: torch.Tensor
    age: torch.Tensor


# The rules, as pure functions ----------------------------------------------------------------


def reuse_shares(entropies: Sequence[float], growth: float) -> tuple[float, ...]:
    """rho' per layer: 1 - minmax(entropy), rising at most by ``growth`` of each step.

    Equal entropies tell nothing: 0 everywhere.
    """
    low, high = min(entropies), max(entropies)
    if not high > low:
        return (0.0,) * len(entropies)
    smoothed: list[float] = []
    for entropy in entropies:
        share = 1.0 - (entropy - low) / (high - low)
        if smoothed and share > smoothed[-1]:
            share = smoothed[-1] + growth * (share - smoothed[-1])
        smoothed.append(share)
    return tuple(smoothed)


def interleave(per_camera: Sequence[Sequence[int]]) -> list[int]:
    """The first of each camera, then the second of each, and so on; longer lists run out last."""
    longest = max(map(len, per_camera), default=0)
    return [row[i] for i in range(longest) for row in per_camera if i < len(row)]


def reuse_list(
    similarity: torch.Tensor, relevance: torch.Tensor, expired: torch.Tensor, config: VLACacheConfig
) -> tuple[list[int], list[int]]:
    """Patches (indices over all cameras) that may be reused, and all others, in order of reuse.

    similarity, relevance float [n_cam, N]; expired bool [n_cam, N]. The others come by similarity:
    first those that only miss tau, then relevant ones, then expired ones.
    """
    patches = similarity.shape[1]
    static_max = round(config.static_max * patches / _PUBLISHED_PATCHES)
    relevant_count = round(config.relevant * patches / _PUBLISHED_PATCHES)
    own, rest = [], []
    for camera, (row, score) in enumerate(zip(similarity, relevance)):
        order = torch.sort(row, descending=True, stable=True).indices.tolist()
        alike, old = (row >= config.tau).tolist(), expired[camera].tolist()
        static = [p for p in order if alike[p] and not old[p]][:static_max]
        relevant = set(top_indices(score, relevant_count).tolist())
        reusable = [p for p in static if p not in relevant]
        left = sorted(
            set(order).difference(reusable),
            key=lambda p: (old[p], p in relevant, -row[p].item(), p),
        )
        if config.order == "raster":
            reusable.sort()
        own.append([camera * patches + p for p in reusable])
        rest.append([camera * patches + p for p in left])
    if config.order == "raster":
        return sum(own, []), interleave(rest)
    return interleave(own), interleave(rest)


# The session ---------------------------------------------------------------------------------


class VLACacheSession(DropSession):
    """``reused`` maps the first layer of each stage to its reused patches (absolute positions)."""

    def __init__(self, context: QueryContext, config: VLACacheConfig) -> None:
        super().__init__(context)
        self.config = config
        self.frame = context.frame.cpu()
        self.cached = context.history if self._usable(context.history) else None
        self.boundaries = [scaled_boundary(b, context.depth) for b in config.boundaries]
        self.relevance_layer = scale_layers([config.relevance_layer], context.depth)[0]
        self.reused = self._plan() if self.cached else {}
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._entropies: list[torch.Tensor] = []
        self._relevance: torch.Tensor | None = None
        self._everything = torch.arange(self.layout.length, device=context.device)
        self._last = self._everything

    @property
    def _by_entropy(self) -> bool:
        return self.config.shares is None and self.config.keep is None

    def _usable(self, history: object) -> bool:
        """Keys of another layout lie at other positions; without shares there is no schedule."""
        if not isinstance(history, CachedQuery) or history.layout != self.layout:
            return False
        return bool(history.shares) or not self._by_entropy

    def _plan(self) -> dict[int, list[int]]:
        """Reused positions from each boundary on: prefixes of one list, so sets only grow."""
        config, cached = self.config, self.cached
        similarity = patch_similarity(
            self.frame, [cached.reference], self.layout.grid, "cosine"
        )
        expired = torch.zeros_like(cached.age, dtype=torch.bool)
        if config.max_age is not None:
            expired = cached.age >= config.max_age
        own, rest = reuse_list(similarity, cached.relevance, expired, config)
        visual = self.layout.visual_tokens
        if config.keep is not None:
            count = visual - kept_count(config.keep, visual)
            wanted = {self.boundaries[0]: (own + rest)[:count]}
        else:
            wanted, present = {}, 0
            for index, boundary in enumerate(self.boundaries):
                if boundary >= self.context.depth:
                    break  # a decoder of one layer
                share = config.shares[index] if config.shares else cached.shares[boundary]
                count = int(share * len(own))
                if config.at_least_one and own:
                    count = max(1, count)
                present = max(present, count)
                wanted[boundary] = own[:present]
        return {b: sorted(p + 1 for p in patches) for b, patches in wanted.items() if patches}

    def before_layer(self, layer: int, state: Tokens) -> Tokens:
        if layer in self.reused:
            active = torch.ones(self.layout.length, dtype=torch.bool)
            active[self.reused[layer]] = False
            positions = torch.nonzero(active).squeeze(1).to(state.positions.device)
            rows = torch.searchsorted(state.positions, positions)
            if len(rows) < len(state.positions):
                alive = self.patches(positions).stop
                chosen = rows[1:alive] - 1
                self.keep_patches(layer, state, chosen)
        return super().before_layer(layer, state)

    def keys_values(
        self, layer: int, state: Tokens, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if len(state.positions) < self.layout.length:
            # index_copy makes new tensors: the cache of the previous query stays as it was.
            key = self.cached.keys[layer].index_copy(2, state.positions, key)
            value = self.cached.values[layer].index_copy(2, state.positions, value)
        self._keys.append(key)
        self._values.append(value)
        return key, value, self._everything

    def after_layer(self, layer: int, state: Tokens, attention: Attention) -> None:
        if layer == self.relevance_layer:
            scores = mean_attention(attention, self._window(attention.positions.device))
            self._relevance = scores[1 : 1 + self.layout.visual_tokens]
        if self._by_entropy:
            self._entropies.append(mean_row_entropy(attention))
        self._last = state.positions

    def _window(self, device: torch.device) -> torch.Tensor:
        if self.config.window == "instruction":
            return instruction_rows(self.layout, device, self.config.name)
        start = 1 + self.layout.visual_tokens
        return span(range(start, min(start + 34, self.layout.length)), device)

    def finish(self) -> SessionResult:
        layout, frame = self.layout, self.frame
        shape = (len(layout.cameras), layout.patches_per_camera)
        computed = torch.zeros(layout.length, dtype=torch.bool)
        computed[self._last.cpu()] = True
        computed = computed[1 : 1 + layout.visual_tokens].reshape(shape)
        reference, age = frame, torch.zeros(shape, dtype=torch.long)
        if self.cached is not None:
            age = torch.where(computed, 0, self.cached.age + 1)
            if self.config.reference == "anchor":
                reference = _paste(self.cached.reference, frame, computed, layout.grid)
        shares: tuple[float, ...] = ()
        if self._entropies:
            shares = reuse_shares(torch.stack(self._entropies).tolist(), self.config.growth)
        history = CachedQuery(
            layout,
            tuple(self._keys),
            tuple(self._values),
            self._relevance.reshape(shape).cpu(),
            shares,
            reference,
            age,
        )
        details = {"oldest_reused": float(age.max())}
        return self.result(history, dense=self.cached is None, details=details)


def _paste(old: torch.Tensor, new: torch.Tensor, patches: torch.Tensor, grid: int) -> torch.Tensor:
    """``old`` with the patches marked in bool [n_cam, N] taken from ``new``; uint8 images."""
    side = new.shape[1] // grid
    mask = patches.reshape(len(patches), grid, grid)
    mask = mask.repeat_interleave(side, 1).repeat_interleave(side, 2)[..., None]
    whole = torch.zeros(*new.shape[:3], 1, dtype=torch.bool)
    whole[:, : grid * side, : grid * side] = mask
    return torch.where(whole, new, old)


class VLACache(Method):
    Config, Session = VLACacheConfig, VLACacheSession


def release() -> VLACache:
    """The released code's rules (preset ``vla_cache_release``)."""
    return VLACache(
        replace(
            VLACacheConfig(name="vla_cache_release"),
            reference="query",
            max_age=None,
            order="raster",
            window="release",
            at_least_one=True,
        )
    )
