"""Primitive shapes that both MJCF and URDF can be written from."""
from __future__ import annotations

from dataclasses import dataclass

Vector = tuple[float, float, float]
Colour = tuple[float, float, float]  # red, green, blue in [0, 1]

WHITE: Colour = (0.93, 0.93, 0.94)
GREY: Colour = (0.36, 0.38, 0.42)
DARK: Colour = (0.20, 0.21, 0.24)


@dataclass(frozen=True)
class Box:
    """half_size: half of the edge lengths (m)."""

    half_size: Vector
    position: Vector
    colour: Colour
    collides: bool = False


@dataclass(frozen=True)
class Cylinder:
    """Along the z axis; half_length in metres."""

    radius: float
    half_length: float
    position: Vector
    colour: Colour
    collides: bool = False


@dataclass(frozen=True)
class Capsule:
    """A cylinder between two points with a ball at each."""

    start: Vector
    end: Vector
    radius: float
    colour: Colour
    collides: bool = False


Shape = Box | Cylinder | Capsule
