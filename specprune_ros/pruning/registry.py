"""Pruning methods by name: dense, presets of SpecPrune-VLA, methods of the comparison, plugins.

A pruner of another package registers through the entry-point group ``specprune_ros.pruners``:
``name = module:callable``, where the callable takes no argument and returns a Pruner.
"""
from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Callable

from specprune_ros.errors import ConfigurationError
from specprune_ros.plugins import call_plugin, find_plugin, plugin_names, source
from specprune_ros.pruning.base import DensePruner, Pruner
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.specprune import SpecPrune

ENTRY_POINT_GROUP = "specprune_ros.pruners"
_KIND = "pruning method"

# Imported when asked for.
_METHODS_PACKAGE = "specprune_ros.pruning.methods"
METHODS = {
    "vla_cache": "vla_cache:VLACache",
    "vla_cache_release": "vla_cache:release",
    "efficientvla": "efficientvla:EfficientVLA",
    "fastv": "fastv:FastV",
    "sparsevlm": "sparsevlm:SparseVLM",
    "divprune": "divprune:DivPrune",
    "vla_pruner": "vla_pruner:VLAPruner",
    "random": "random:Random",
    "uniform": "uniform:Uniform",
}


def _built_in() -> tuple[str, ...]:
    return ("off", *PRESETS, *METHODS)


def known_methods() -> tuple[str, ...]:
    """Names that :func:`make_pruner` takes, those of installed plugins last."""
    built_in = _built_in()
    return (*built_in, *(n for n in plugin_names(ENTRY_POINT_GROUP) if n not in built_in))


def make_pruner(name: str, seed: int = 0) -> Pruner:
    """The pruner of a name. seed: of the draws of a built-in method that draws.

    Raises ConfigurationError for an unknown name (it lists the known ones), for a plugin that takes
    the name of a built-in method or of another plugin, and for a plugin that cannot be used.
    """
    entry = find_plugin(ENTRY_POINT_GROUP, name, _KIND, _built_in())
    if name in _built_in():
        return _seeded(_make_built_in(name), seed)
    if entry is None:
        raise ConfigurationError(
            f"unknown pruning method '{name}'; known: {', '.join(known_methods())}"
        )
    return _load(entry)


def _make_built_in(name: str) -> Pruner:
    if name == "off":
        return DensePruner()
    if name in PRESETS:
        return SpecPrune(preset(name))
    module, attribute = METHODS[name].split(":")
    factory: Callable[[], Pruner] = getattr(
        import_module(f"{_METHODS_PACKAGE}.{module}"), attribute
    )
    return factory()


def _seeded(pruner: Pruner, seed: int) -> Pruner:
    config = getattr(pruner, "config", None)
    if not hasattr(config, "seed") or config.seed == seed:
        return pruner
    return type(pruner)(replace(config, seed=seed))


def _load(entry: EntryPoint) -> Pruner:
    pruner = call_plugin(entry, "pruner")
    if not callable(getattr(pruner, "begin", None)) or not isinstance(
        getattr(pruner, "name", None), str
    ):
        raise ConfigurationError(
            f"the pruner {source(entry)} gave {type(pruner).__name__}, which has no 'name' and "
            "'begin(context)': return a specprune_ros.pruning.base.Pruner"
        )
    return pruner
