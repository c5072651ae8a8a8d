"""Code of other packages that takes part by name: pruners, simulators, backbones.

A package registers it in its metadata, in an entry-point group: ``name = module:callable``. What
goes wrong in someone else's code is told as the error of that entry point.
"""
from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from specprune_ros.errors import ConfigurationError, SpecpruneError


def plugin_names(group: str) -> tuple[str, ...]:
    """Names that installed packages register in a group, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def find_plugin(group: str, name: str, kind: str, built_in: Iterable[str] = ()
                ) -> EntryPoint | None:
    """The entry point of a name, or None. kind: what a user calls such a thing.

    Raises ConfigurationError where it takes the name of a built-in one, or of another plug-in.
    """
    found = list(entry_points(group=group, name=name))
    if found and name in built_in:
        raise ConfigurationError(
            f"the entry point {source(found[0])} takes the name of the built-in {kind} '{name}': "
            "rename it, or uninstall its package"
        )
    if len({entry.value for entry in found}) > 1:
        sources = " and ".join(map(source, found))
        raise ConfigurationError(f"{sources} both register the {kind} '{name}': keep one")
    return found[0] if found else None


def load_plugin(entry: EntryPoint, kind: str) -> Any:
    """What an entry point names. Raises ConfigurationError if it cannot be imported."""
    try:
        return entry.load()
    except SpecpruneError:
        raise  # the plug-in itself says what is wrong
    except Exception as error:
        raise _broken(entry, kind, error) from error


def call_plugin(entry: EntryPoint, kind: str, *arguments: object) -> Any:
    """What the callable of an entry point gives. Raises ConfigurationError if it fails."""
    factory = load_plugin(entry, kind)
    try:
        return factory(*arguments)
    except SpecpruneError:
        raise
    except Exception as error:
        raise _broken(entry, kind, error) from error


def source(entry: EntryPoint) -> str:
    """An entry point, and the package that it is of, for messages."""
    package = f" of package {entry.dist.name}" if entry.dist is not None else ""
    return f"'{entry.name} = {entry.value}'{package}"


def _broken(entry: EntryPoint, kind: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the {kind} {source(entry)} cannot be loaded: {type(error).__name__}: {error}"
    )
