"""Checks of settings against their declared types: a misspelt choice must not run as another."""
from __future__ import annotations

import math
import typing
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union

from specprune_ros.errors import ConfigurationError


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def check_types(settings: Any) -> None:
    """Raises ConfigurationError for a field of another type than declared, or a float that is NaN.

    Knows bool, int, float (which takes an int), str, Literal, Optional and tuples of one type;
    fields of other types are not looked at.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        wanted = _hints(type(settings))[field.name]
        if not _fits(value, wanted):
            owner = f"{settings.name}: " if hasattr(settings, "name") else ""
            raise ConfigurationError(
                f"{owner}{field.name} is {value!r}, expected {_described(wanted)}"
            )


def _fits(value: Any, wanted: Any) -> bool:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if wanted is NoneType:
        return value is None
    if wanted is bool:
        return isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and not math.isnan(value)
    return isinstance(value, str) if wanted is str else True


def _described(wanted: Any) -> str:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(map(_described, arguments))
    if origin is tuple:
        return f"a tuple of {_described(arguments[0])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", NoneType: "None"}
    return names.get(wanted, "text")
