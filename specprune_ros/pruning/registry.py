"""Pruning methods by name."""
from __future__ import annotations

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import DensePruner, Pruner
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.specprune import SpecPrune


def known_methods() -> tuple[str, ...]:
    """Names that :func:`make_pruner` takes."""
    return ("off", *PRESETS)


def make_pruner(name: str) -> Pruner:
    """The pruner of a name; ConfigurationError lists the known ones."""
    if name == "off":
        return DensePruner()
    if name in PRESETS:
        return SpecPrune(preset(name))
    raise ConfigurationError(
        f"unknown pruning method '{name}'; known: {', '.join(known_methods())}"
    )
