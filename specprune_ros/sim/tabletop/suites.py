"""The suites of the tabletop as data."""
from __future__ import annotations

from .shapes import Box, Cylinder, Shape
from .spec import Destination, TabletopSpec

COLOURS = {
    "red": (0.85, 0.12, 0.10),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.27, 0.88),
    "yellow": (0.95, 0.80, 0.10),
}


def _plate() -> Destination:
    """A white disc of 15 cm with a grey centre."""
    return Destination("plate", top=0.008, shapes=(
        Cylinder(0.075, 0.004, (0.0, 0.0, 0.004), (0.92, 0.92, 0.94), collides=True),
        Cylinder(0.052, 0.0005, (0.0, 0.0, 0.0088), (0.72, 0.76, 0.84)),
    ))


def _tray() -> Destination:
    """A dark square of 15 cm with a rim of 12 mm."""
    rim = (0.33, 0.34, 0.38)
    half, thick, height = 0.075, 0.003, 0.006
    walls: tuple[Shape, ...] = tuple(
        Box(size, position, rim, collides=True)
        for side in (1.0, -1.0)
        for size, position in (
            ((half, thick, height), (0.0, side * (half - thick), height)),
            ((thick, half, height), (side * (half - thick), 0.0, height)),
        )
    )
    floor = Box((half, half, 0.002), (0.0, 0.0, 0.002), (0.14, 0.14, 0.17), collides=True)
    return Destination("tray", top=0.004, shapes=(floor, *walls))


TABLETOP = TabletopSpec(suite="tabletop", colours=COLOURS, destinations=(_plate(), _tray()))

SUITES: dict[str, TabletopSpec] = {spec.suite: spec for spec in (TABLETOP,)}
