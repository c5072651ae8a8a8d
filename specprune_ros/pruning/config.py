"""Settings of SpecPrune-VLA. Layer numbers are 0-based and stated for 32 layers (Llama-2-7B)."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Iterable, Literal

from specprune_ros.errors import ConfigurationError
from specprune_ros.types import Mode

_REFERENCE_DEPTH = 32


def scale_layers(layers: Iterable[int], depth: int) -> tuple[int, ...]:
    """Layer indices stated for 32 layers, at the same relative depth of another decoder.

    Index l becomes round(l * (depth - 1) / 31): the first and the last layer map to themselves.
    Duplicates merge, so a shallow decoder has fewer stages.
    """
    last = _REFERENCE_DEPTH - 1
    return tuple(sorted({(2 * l * (depth - 1) + last) // (2 * last) for l in layers}))


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
class StaticConfig:
    """Static stage (paper section "static pruning"; algorithm: V_global, V_dynamic, V_local).

    direction: ``text_to_vision`` averages attention of text rows to patches; ``vision_to_text`` is
        the paper's Eq. 1 (rows of patches, columns of text).
    global_rows: whose attention ranks V_global, the instruction's or the action read-out rows.
    carry: factor on the old score of a patch that was not alive in the scoring layer.
    similarity: ``ssim`` (brightness-aware) or ``cosine`` of raw pixels (the paper).
    dynamic_rule: ``lowest`` = the K_D least similar patches below tau (paper);
        ``static_cap`` = all but the N - K_D most similar ones above tau (released code).
    compare_last_query: also compare with the frame of the previous query; a patch's similarity is
        the lower of the two.
    interval_offset, interval_slope: T = floor(offset + slope * v) + 4 control periods, with v in
        controller units per period, clamped to 1..interval_max.
    """

    local_layers: tuple[int, ...] = (0, 1)
    interim_factor: int = 2
    global_layers: tuple[int, ...] = (14, 30)
    global_rows: Literal["instruction", "readout"] = "readout"
    carry: float = 0.5
    direction: Literal["text_to_vision", "vision_to_text"] = "text_to_vision"
    similarity: Literal["ssim", "cosine"] = "ssim"
    tau_scene: float = 0.95
    tau_wrist: float = 0.95
    dynamic_rule: Literal["lowest", "static_cap"] = "lowest"
    compare_last_query: bool = True
    interval_offset: float = 22 / 3
    interval_slope: float = -16 / 3
    interval_max: int = 11
    use_global: bool = True
    use_dynamic: bool = True
    use_local: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.carry <= 1.0:
            raise ConfigurationError("carry must lie in [0, 1]")
        if self.interim_factor < 1:
            raise ConfigurationError("interim_factor must be >= 1")
        if self.interval_max < 1:
            raise ConfigurationError("interval_max must be >= 1")

    def tau(self, camera: str) -> float:
        return self.tau_wrist if "wrist" in camera else self.tau_scene


@dataclass(frozen=True)
class DynamicConfig:
    """Dynamic stage: score updates and pruning between decoder layers.

    keep: share kept at each pruning layer, of the visual tokens (``visual``) or of the whole
        sequence, taken from the visual ones (``total``, released code).
    rank_slope: k of the rank weight sigma(-k * rank); None means 8 / n, which neither underflows
        nor ties. confidence: ``entropy`` = 1 / (normalised entropy), ``mean_std`` = mean / std.
    """

    enabled: bool = True
    update_layers: tuple[int, ...] = (5, 9, 14, 19, 24)
    prune_layers: tuple[int, ...] = (10, 15, 20, 25)
    keep: float = 0.9
    ratio_of: Literal["visual", "total"] = "visual"
    floor: int = 60
    beta: float = 0.2
    rank_slope: float | None = None
    confidence: Literal["entropy", "mean_std"] = "entropy"

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise ConfigurationError("keep must lie in (0, 1]")
        if not 0.0 < self.beta <= 1.0:
            raise ConfigurationError("beta must lie in (0, 1]")
        if self.floor < 0:
            raise ConfigurationError("floor must be >= 0")


@dataclass(frozen=True)
class ControllerConfig:
    """Action-aware controller, in SI units.

    rule ``and`` (paper): fine when slower than both entry thresholds and not rising faster than
    enter_vertical; coarse again when faster than either exit threshold. rule ``release``: the
    authors' released OR rule. A mode lasts at least min_dwell seconds.
    """

    enabled: bool = True
    rule: Literal["and", "release"] = "and"
    enter_translation: float = 0.10  # m/s
    enter_rotation: float = 0.50  # rad/s
    enter_vertical: float = 0.01  # m/s, upward; the paper's 0 plus sensor noise
    exit_translation: float = 0.15  # m/s
    exit_rotation: float = 0.80  # rad/s
    enter_horizontal: float = 0.0  # m/s, release rule only
    exit_vertical: float = 0.0  # m/s, release rule only
    min_dwell: float = 0.2  # s

    def __post_init__(self) -> None:
        if self.rule == "and":
            for name in ("translation", "rotation"):
                low, high = getattr(self, f"enter_{name}"), getattr(self, f"exit_{name}")
                if high < low:
                    raise ConfigurationError(
                        f"exit_{name} ({high}) must not be below enter_{name} ({low})"
                    )
        if self.min_dwell < 0:
            raise ConfigurationError("min_dwell must be >= 0")

    def thresholds(self) -> dict[str, float]:
        names = ("enter_translation", "enter_rotation", "enter_vertical")
        names += ("exit_translation", "exit_rotation")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class SpecPruneConfig:
    """One variant of the method.

    first_query: ``dense`` runs the first query of an episode unpruned (there is no history to
    judge by); ``prune`` starts at once. refresh_every: every n-th query dense; 0 = never.
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
        below = self.budgets.fine_below_coarse()
        if below and not self.allow_fine_below_coarse:
            raise ConfigurationError(
                f"the fine budget {below} is below the coarse one: fine mode must not prune more"
            )
        if self.refresh_every < 0:
            raise ConfigurationError("refresh_every must be >= 0")

    def scaled_to(self, depth: int) -> SpecPruneConfig:
        """The same variant with its layer schedules at the relative depth of another decoder."""
        static, dynamic = self.static, self.dynamic
        # Speculation layers are the first ones of any decoder; only the schedules scale.
        first_prunable = len(static.local_layers)
        prune = tuple(
            l
            for l in scale_layers(dynamic.prune_layers, depth)
            if first_prunable <= l < depth - 1
        )
        return replace(
            self,
            static=replace(static, global_layers=scale_layers(static.global_layers, depth)),
            dynamic=replace(
                dynamic,
                prune_layers=prune,
                update_layers=scale_layers(dynamic.update_layers, depth),
            ),
        )
