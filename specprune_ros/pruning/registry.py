"""Pruning methods by name: dense, presets of SpecPrune-VLA, methods of the comparison, plugins.

A pruner of another package registers through the entry-point group ``specprune_ros.pruners``:
``name = module:callable``, where the callable takes no argument and returns a Pruner.
"""
from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Callable

from specprune_ros.errors import ConfigurationError, SpecpruneError
from specprune_ros.pruning.base import DensePruner, Pruner
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.specprune import SpecPrune

ENTRY_POINT_GROUP = "specprune_ros.pruners"

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
    plugins = {entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return (*built_in, *sorted(plugins.difference(built_in)))


def make_pruner(name: str, seed: int = 0) -> Pruner:
    """The pruner of a name. seed: of the draws of a built-in method that draws.

    Raises ConfigurationError for an unknown name (it lists the known ones), for a plugin that takes
    the name of a built-in method or of another plugin, and for a plugin that cannot be used.
    """
    plugins = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if name in _built_in():
        if plugins:
            raise ConfigurationError(
                f"the entry point {_source(plugins[0])} takes the name of the built-in pruning "
                f"method '{name}': rename it, or uninstall its package"
            )
        return _seeded(_make_built_in(name), seed)
    if not plugins:
        raise ConfigurationError(
            f"unknown pruning method '{name}'; known: {', '.join(known_methods())}"
        )
    if len({entry.value for entry in plugins}) > 1:
        sources = " and ".join(map(_source, plugins))
        raise ConfigurationError(f"{sources} both register the pruning method '{name}': keep one")
    return _load(plugins[0])


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


def _source(entry: EntryPoint) -> str:
    package = f" of package {entry.dist.name}" if entry.dist is not None else ""
    return f"'{entry.name} = {entry.value}'{package}"


def _load(entry: EntryPoint) -> Pruner:
    """Whatever goes wrong in someone else's code is told as the error of that entry point."""
    try:
        pruner = entry.load()()
    except SpecpruneError:
        raise  # the plugin itself says what is wrong
    except Exception as error:
        raise ConfigurationError(
            f"the pruner {_source(entry)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(pruner, "begin", None)) or not isinstance(
        getattr(pruner, "name", None), str
    ):
        raise ConfigurationError(
            f"the pruner {_source(entry)} gave {type(pruner).__name__}, which has no 'name' and "
            "'begin(context)': return a specprune_ros.pruning.base.Pruner"
        )
    return pruner
