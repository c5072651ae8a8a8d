"""Parameters of the pruning method: every budget and threshold of SpecPrune-VLA, by preset.

Choosing a preset sets all of them; changing one afterwards makes the method ``custom``. The rules
that are no numbers (which layers, which similarity, ...) stay those of the preset it began with.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ..errors import ConfigurationError
from ..pruning.config import SpecPruneConfig
from ..pruning.frames import RING_CAPACITY
from ..pruning.presets import PRESETS, preset
from ..pruning.registry import known_methods
from .parameters import Change, ParameterSpec, Value

CUSTOM = "custom"
FIRST_PRESET = "specprune"
_LIVE = Change.LIVE
_SETS = {"global": "V_global, the patches that mattered in the previous query",
         "dynamic": "V_dynamic, the patches that changed",
         "local": "V_local per speculation layer, the patches that matter now"}


def _budgets() -> list[tuple[str, str, str, float, float]]:
    fields_of = {"global": "global_"}  # a word of Python
    return [(f"budgets.{view}.{mode}.{name}",
             f"budgets.{view}_{mode}.{fields_of.get(name, name)}",
             f"Patches of a {view} camera in {mode} mode for {meaning}.", 0, 4096)
            for view in ("scene", "wrist") for mode in ("coarse", "fine")
            for name, meaning in _SETS.items()]


#: name, path in SpecPruneConfig, description, range (None: a bool)
_TABLE: list[tuple[str, str, str, float | None, float | None]] = [
    *_budgets(),
    ("static.tau_scene", "static.tau_scene", "Similarity below which a patch of a scene camera "
     "counts as changed.", 0.0, 1.0),
    ("static.tau_wrist", "static.tau_wrist", "Similarity below which a patch of a wrist camera "
     "counts as changed.", 0.0, 1.0),
    ("static.carry", "static.carry", "Factor on the old score of a patch that was pruned before "
     "it could be scored again.", 0.0, 1.0),
    ("static.interim_factor", "static.interim_factor", "Multiple of the local budget that is kept "
     "after all but the last speculation layer; 0 prunes after the last only.", 0, 1000),
    ("static.use_global", "static.use_global", "Keep V_global.", None, None),
    ("static.use_dynamic", "static.use_dynamic", "Keep V_dynamic.", None, None),
    ("static.use_local", "static.use_local", "Keep V_local.", None, None),
    ("interval.offset", "static.interval.offset", "Control periods to the frame that is compared "
     "with, at rest.", 0.0, 100.0),
    ("interval.slope", "static.interval.slope", "Change of the interval per 0.05 m that the arm "
     "moves in a control period.", -100.0, 0.0),
    ("interval.added", "static.interval.added", "Control periods added to the interval.",
     -100, 100),
    ("interval.longest", "static.interval.longest", "Longest interval, in control periods.",
     1, RING_CAPACITY - 1),
    ("dynamic.enabled", "dynamic.enabled", "Prune further at deeper layers.", None, None),
    ("dynamic.keep", "dynamic.keep", "Share of the tokens kept at each of these layers.",
     0.01, 1.0),
    ("dynamic.floor", "dynamic.floor", "Visual tokens that are never pruned below.", 0, 16384),
    ("dynamic.beta", "dynamic.beta", "Weight of a new score in the running one.", 0.001, 1.0),
    ("controller.enabled", "controller.enabled", "Change between coarse and fine by the speed of "
     "the tool.", None, None),
    ("controller.enter_translation", "controller.enter_translation", "Fine mode below this speed, "
     "m/s.", 0.0, 10.0),
    ("controller.enter_rotation", "controller.enter_rotation", "Fine mode below this speed, "
     "rad/s.", 0.0, 100.0),
    ("controller.enter_vertical", "controller.enter_vertical", "Fine mode up to this upward "
     "velocity, m/s.", -10.0, 10.0),
    ("controller.enter_horizontal", "controller.enter_horizontal", "Fine mode below this "
     "horizontal speed, m/s; rule of release only.", 0.0, 10.0),
    ("controller.exit_translation", "controller.exit_translation", "Coarse mode above this speed, "
     "m/s.", 0.0, 10.0),
    ("controller.exit_rotation", "controller.exit_rotation", "Coarse mode above this speed, "
     "rad/s.", 0.0, 100.0),
    ("controller.exit_vertical", "controller.exit_vertical", "Coarse mode above this upward "
     "velocity, m/s; rule of release only.", -10.0, 10.0),
    ("controller.min_dwell", "controller.min_dwell", "Seconds that a mode lasts at least.",
     0.0, 60.0),
    ("controller.warm_up", "controller.warm_up", "Seconds of motion before the mode may change.",
     0.0, 60.0),
    ("controller.time_constant", "controller.time_constant", "Seconds of the low-pass filter on "
     "the measured velocity; 0 for none.", 0.0, 10.0),
    ("controller.replan", "controller.replan", "Query at once when the mode becomes fine with "
     "actions left to play. Not with a simulator in lockstep.", None, None),
    ("refresh_every", "refresh_every", "Every n-th query keeps every token; 0 for never.",
     0, 1_000_000),
]
_PATHS = {name: tuple(path.split(".")) for name, path, *_ in _TABLE}


def _at(config: Any, path: tuple[str, ...]) -> Value:
    for name in path:
        config = getattr(config, name)
    return config


def preset_values(name: str) -> dict[str, Value]:
    """Values of the method's parameters in a preset."""
    config = preset(name)
    return {parameter: _at(config, path) for parameter, path in _PATHS.items()}


_DEFAULTS = preset_values(FIRST_PRESET)
METHOD_PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec("pruning", FIRST_PRESET, "Pruning method; off computes every token, custom is a "
                  "preset of SpecPrune with other values.", choices=(*known_methods(), CUSTOM)),
    ParameterSpec("pruning_seed", 0, "Seed of what random draws; other methods draw nothing.",
                  _LIVE, 0, 2**31 - 1),
    ParameterSpec("custom_base", FIRST_PRESET, "Preset whose rules hold for custom; set by "
                  "choosing a preset.", choices=tuple(PRESETS), derived=True),
    *(ParameterSpec(name, _DEFAULTS[name], f"{description} Set by choosing a preset.", _LIVE, low,
                    high, derived=True)
      for name, _, description, low, high in _TABLE),
)
GOVERNED = tuple(_PATHS)  # the parameters that a preset sets


def config_of(settings: Mapping[str, Value]) -> SpecPruneConfig:
    """The method as the parameters say it, named custom.

    Raises:
        ConfigurationError: values contradict one another.
    """
    base = preset(settings["custom_base"])
    tree: dict[str, Any] = {}
    for name, path in _PATHS.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = settings[name]
    return replace(_replaced(base, tree), name=CUSTOM)


def _replaced(config: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass with some fields, and fields of its fields, replaced."""
    known = {field.name for field in fields(config)}
    assert set(values) <= known, f"{type(config).__name__} has no {set(values) - known}"
    return replace(config, **{
        name: _replaced(getattr(config, name), value)
        if is_dataclass(getattr(config, name)) else value for name, value in values.items()})


def started(given: Mapping[str, Value]) -> dict[str, Value]:
    """Values at start, from those that were given: others come from the preset."""
    pruning = given.get("pruning", FIRST_PRESET)
    base = pruning if pruning in PRESETS else given.get("custom_base", FIRST_PRESET)
    values = {**preset_values(base if base in PRESETS else FIRST_PRESET), **given,
              "custom_base": base, "pruning": pruning}
    if pruning in PRESETS and any(values[name] != value
                                  for name, value in preset_values(base).items()):
        values["pruning"] = CUSTOM
    return values


def changed(before: Mapping[str, Value], values: Mapping[str, Value]) -> dict[str, Value]:
    """The values to change with those that somebody changes.

    Raises:
        ConfigurationError: a preset is chosen together with values that are not its own.
    """
    chosen = values.get("pruning", before["pruning"])
    governed = [name for name in values if name in _PATHS]
    if "pruning" in values and chosen in PRESETS:
        own = preset_values(chosen)
        other = [name for name in governed if values[name] != own[name]]
        if other:
            raise ConfigurationError(
                f"{other[0]} of preset {chosen} is {own[other[0]]}, not {values[other[0]]}: choose "
                "the preset first, or set pruning to custom")
        return {**own, **values, "custom_base": chosen}
    if governed and chosen in PRESETS:
        return {**values, "pruning": CUSTOM, "custom_base": chosen}
    return dict(values)
