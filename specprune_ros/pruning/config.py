"""Settings of SpecPrune-VLA. Layer numbers are 0-based and stated for 32 layers (Llama-2-7B)."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.checks import check_types
from specprune_ros.pruning.frames import RING_CAPACITY
from specprune_ros.pruning.schedule import Schedule, check_layers
from specprune_ros.types import Mode


@dataclass(frozen=True)
class Budget:
    """Patches per camera that each set may keep; a camera named ``*wrist*`` has its own numbers.

    global_: V_global, split evenly over its layers. local: K per speculation layer.
    dynamic: K_D. Under the rule ``lowest`` it is a maximum, under ``static_cap`` a minimum.
    """

    global_: int
    dynamic: int
    local: int

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("global_", "dynamic", "local"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"budget {name.rstrip('_')} must be >= 0")


@dataclass(frozen=True)
class CameraBudgets:
    """Budgets of scene and wrist cameras in both modes of the controller."""

    scene_coarse: Budget
    scene_fine: Budget
    wrist_coarse: Budget
    wrist_fine: Budget

    def of(self, camera: str, mode: Mode) -> Budget:
        kind = "wrist" if "wrist" in camera else "scene"
        return getattr(self, f"{kind}_{mode.name.lower()}")

    def fine_below_coarse(self) -> str | None:
        """Name of the first fine budget that is below its coarse one, or None."""
        for kind in ("scene", "wrist"):
            coarse, fine = getattr(self, f"{kind}_coarse"), getattr(self, f"{kind}_fine")
            for name in ("global_", "dynamic", "local"):
                if getattr(fine, name) < getattr(coarse, name):
                    return f"{kind}.{name.rstrip('_')}"
        return None


@dataclass(frozen=True)
class FrameInterval:
    """Velocity-based sampling: how many control periods ago the frame compared with was taken.

    T = round(offset + slope * v) + added, clamped to 1..longest; the frame looked up lies T - lag
    periods back, at least one. v is in controller units (0.05 m), from the motion since the
    previous query: ``mean`` = path per control period (v1, Algorithm 1), ``net`` = length of the
    summed displacement (released code, where also ``trunc``, added 3 and lag 1 come from).
    """

    offset: float = 22 / 3
    slope: float = -16 / 3
    added: int = 4
    longest: int = 11
    lag: int = 0
    rounding: Literal["floor", "trunc"] = "floor"
    speed: Literal["mean", "net"] = "mean"

    def __post_init__(self) -> None:
        check_types(self)
        if not 1 <= self.longest < RING_CAPACITY:
            raise ConfigurationError(
                f"the longest frame interval is {self.longest} control periods; it must lie in "
                f"1..{RING_CAPACITY - 1}, as far as the frame ring reaches"
            )
        if not (math.isfinite(self.offset) and math.isfinite(self.slope)):
            raise ConfigurationError("offset and slope of the frame interval must be finite")
        if self.slope > 0:
            raise ConfigurationError("the slope of the frame interval must not be positive: a "
                                     "faster arm is compared with a nearer frame")

    def frames(self, v: float) -> int:
        """T for a speed v in controller units; NaN (not known) counts as 0."""
        value = self.offset + self.slope * (0.0 if math.isnan(v) else max(v, 0.0))
        whole = math.floor(value) if self.rounding == "floor" else math.trunc(value)
        return max(1, min(whole + self.added, self.longest))

    def steps_back(self, v: float) -> int:
        """Control periods between the two frames."""
        return max(1, self.frames(v) - self.lag)


@dataclass(frozen=True)
class StaticConfig:
    """Static stage (paper section "static pruning"; algorithm: V_global, V_dynamic, V_local).

    local_layers: the speculation layers; pruning follows each of them, after all but the last
        only down to the top ``interim_factor`` * K. interim_factor 0: no pruning before the last.
    direction: ``text_to_vision`` averages attention of text rows to patches; ``vision_to_text`` is
        the paper's Eq. 1 (rows of patches, columns of text).
    global_rows: whose attention ranks V_global, the instruction's or the action read-out rows.
    global_budget: the mode whose budget counts, that of this query or (released code) that of the
        query the scores come from.
    carry: factor on the old score of a patch that was not alive in the scoring layer; with 0 such
        a patch cannot come back through V_global.
    similarity: ``ssim`` (brightness-aware) or ``cosine`` of raw pixels (the paper).
    dynamic_rule: ``lowest`` = the K_D least similar patches below tau (paper);
        ``static_cap`` = all but the N - K_D most similar ones above tau (released code).
    compare_last_query: also compare with the frame of the previous query; a patch's similarity is
        the lower of the two.
    """

    local_layers: tuple[int, ...] = (0, 1)
    interim_factor: int = 0
    global_layers: tuple[int, ...] = (14, 30)
    global_rows: Literal["instruction", "readout"] = "readout"
    global_budget: Literal["this", "previous"] = "this"
    carry: float = 0.5
    direction: Literal["text_to_vision", "vision_to_text"] = "text_to_vision"
    similarity: Literal["ssim", "cosine"] = "ssim"
    tau_scene: float = 0.95
    tau_wrist: float = 0.95
    dynamic_rule: Literal["lowest", "static_cap"] = "lowest"
    compare_last_query: bool = True
    interval: FrameInterval = field(default_factory=FrameInterval)
    use_global: bool = True
    use_dynamic: bool = True
    use_local: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        if not 0.0 <= self.carry <= 1.0:
            raise ConfigurationError("carry must lie in [0, 1]")
        if self.interim_factor < 0:
            raise ConfigurationError("interim_factor must be >= 0")
        check_layers("local_layers", self.local_layers)
        check_layers("global_layers", self.global_layers)
        if not self.local_layers or not self.global_layers:
            raise ConfigurationError(
                "local_layers and global_layers need a layer each; switch a set off with "
                "use_local or use_global"
            )

    def tau(self, camera: str) -> float:
        return self.tau_wrist if "wrist" in camera else self.tau_scene


@dataclass(frozen=True)
class DynamicConfig:
    """Dynamic stage: score updates and pruning between decoder layers.

    Both follow the layers named; where a layer has both, the update comes first.
    keep: share kept at each pruning layer, of the visual tokens (``visual``) or of the whole
        sequence, taken from the visual ones (``total``, released code).
    floor: visual tokens of all cameras that are never pruned below.
    rank_slope: k of the rank weight sigma(-k * rank); None means 8 / n, which neither underflows
        nor ties.
    confidence: ``entropy`` = 1 / (entropy / ln n), ``entropy_nats`` = 1 / entropy, ``mean_std`` =
        mean / std. confidence_per: ``episode`` keeps the first query's (released code).
    allow_unscored_prune: a pruning layer before the first update drops by position alone
        (released code).
    """

    enabled: bool = True
    update_layers: tuple[int, ...] = (5, 9, 14, 19, 24)
    prune_layers: tuple[int, ...] = (10, 15, 20, 25)
    keep: float = 0.9
    ratio_of: Literal["visual", "total"] = "visual"
    floor: int = 60
    beta: float = 0.2
    rank_slope: float | None = None
    confidence: Literal["entropy", "entropy_nats", "mean_std"] = "entropy"
    confidence_per: Literal["query", "episode"] = "query"
    allow_unscored_prune: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if not 0.0 < self.keep <= 1.0:
            raise ConfigurationError("keep must lie in (0, 1]")
        if not 0.0 < self.beta <= 1.0:
            raise ConfigurationError("beta must lie in (0, 1]")
        if self.floor < 0:
            raise ConfigurationError("floor must be >= 0")
        if self.rank_slope is not None and not self.rank_slope > 0:
            raise ConfigurationError("rank_slope must be > 0, or None for the scale-free one")
        check_layers("update_layers", self.update_layers)
        check_layers("prune_layers", self.prune_layers)
        if self.prune_layers and not self.allow_unscored_prune:
            first = self.prune_layers[0]
            if not self.update_layers or self.update_layers[0] > first:
                raise ConfigurationError(
                    f"layer {first} would prune before there is any score: put an update layer at "
                    "or before it"
                )


@dataclass(frozen=True)
class ControllerConfig:
    """Action-aware controller, in SI units.

    rule ``and`` (paper): fine when slower than both entry thresholds and not rising faster than
    enter_vertical; coarse again when faster than either exit threshold. rule ``release``: the
    authors' released OR rule.
    source: ``measured`` = the twist of the observations, ``commanded`` = the actions executed
    since the previous query, one by one; ``auto`` = measured where there is a twist.
    """

    enabled: bool = True
    rule: Literal["and", "release"] = "and"
    source: Literal["auto", "measured", "commanded"] = "auto"
    enter_translation: float = 0.10  # m/s
    enter_rotation: float = 0.50  # rad/s
    enter_vertical: float = 0.01  # m/s, upward; the paper's 0 plus sensor noise
    exit_translation: float = 0.15  # m/s
    exit_rotation: float = 0.80  # rad/s
    enter_horizontal: float = 0.0  # m/s, release rule only
    exit_vertical: float = 0.0  # m/s, release rule only
    exit_at_chunk_end: bool = False  # leave fine only where a chunk ends (released code)
    min_dwell: float = 0.2  # s; a mode lasts at least as long
    warm_up: float = 0.0  # s after the first judged motion in which nothing changes
    time_constant: float = 0.05  # s; low-pass filter on measured twists, 0 = none
    replan: bool = False  # ask for a new query on coarse -> fine with actions left to play

    def __post_init__(self) -> None:
        check_types(self)
        for name, value in self.thresholds().items():
            # A vertical velocity has a sign, the other speeds have none.
            if not math.isfinite(value) or (value < 0 and not name.endswith("vertical")):
                raise ConfigurationError(f"{name} is {value}: it must be a speed")
        # The speeds with a threshold for entering fine mode and one for leaving it.
        both = ("rotation", "vertical") if self.rule == "release" else ("translation", "rotation")
        for name in both:
            low, high = getattr(self, f"enter_{name}"), getattr(self, f"exit_{name}")
            if high < low:
                raise ConfigurationError(
                    f"exit_{name} ({high}) must not be below enter_{name} ({low}), or the mode "
                    "would chatter between them"
                )
        for name in ("min_dwell", "warm_up", "time_constant"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0.0):
                raise ConfigurationError(f"{name} must be finite and >= 0 seconds")

    def thresholds(self) -> dict[str, float]:
        """The thresholds of the rule, by name."""
        names = ["enter_translation", "enter_rotation", "enter_vertical"]
        if self.rule == "release":
            names += ["enter_horizontal", "exit_rotation", "exit_vertical"]
        else:
            names += ["exit_translation", "exit_rotation"]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class SpecPruneConfig:
    """One variant of the method.

    first_query: ``dense`` runs a query without history (the first of an episode or prompt)
    unpruned, as there is nothing to judge by; ``prune`` starts at once.
    refresh_every: every n-th query dense; 0 = never.
    """

    name: str
    budgets: CameraBudgets
    static: StaticConfig = field(default_factory=StaticConfig)
    dynamic: DynamicConfig = field(default_factory=DynamicConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    first_query: Literal["dense", "prune"] = "dense"
    refresh_every: int = 0
    allow_fine_below_coarse: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        below = self.budgets.fine_below_coarse()
        if below and not self.allow_fine_below_coarse:
            raise ConfigurationError(
                f"the fine budget {below} is below the coarse one: fine mode must not prune more"
            )
        if self.refresh_every < 0:
            raise ConfigurationError("refresh_every must be >= 0")

    def schedule(self, depth: int) -> Schedule:
        """The layers of a decoder with ``depth`` layers at which something happens."""
        return Schedule.of(self.static, self.dynamic, depth)
