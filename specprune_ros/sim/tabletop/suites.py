"""The suites of the tabletop as data."""
from __future__ import annotations

import math

from .shapes import Box, Cylinder, Shape
from .spec import PLACE, PUSH, Camera, Clutter, Destination, Light, Look, TabletopSpec

COLOURS = {
    "red": (0.85, 0.12, 0.10),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.27, 0.88),
    "yellow": (0.95, 0.80, 0.10),
}


def _plate(radius: float) -> Destination:
    """A white disc with a grey centre."""
    return Destination("plate", top=0.008, shapes=(
        Cylinder(radius, 0.004, (0.0, 0.0, 0.004), (0.92, 0.92, 0.94), collides=True),
        Cylinder(0.7 * radius, 0.0005, (0.0, 0.0, 0.0088), (0.72, 0.76, 0.84)),
    ))


def _tray(half: float) -> Destination:
    """A dark square with a rim of 12 mm."""
    rim = (0.33, 0.34, 0.38)
    thick, height = 0.003, 0.006
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


def _mat(half: float, verb: str = PLACE) -> Destination:
    """A flat square; cubes slide onto it."""
    frame, field = (0.40, 0.27, 0.44), (0.87, 0.83, 0.78)
    return Destination("mat", top=0.0, verb=verb, shapes=(
        Box((half, half, 0.0005), (0.0, 0.0, 0.0005), frame),
        Box((0.8 * half, 0.8 * half, 0.0005), (0.0, 0.0, 0.0011), field),
    ))


def _can() -> Clutter:
    label, lid = (0.80, 0.25, 0.22), (0.75, 0.76, 0.78)
    return Clutter(radius=0.026, shapes=(
        Cylinder(0.026, 0.022, (0.0, 0.0, 0.022), label, collides=True),
        Cylinder(0.023, 0.0006, (0.0, 0.0, 0.0446), lid),
    ))


def _block() -> Clutter:
    wood = (0.45, 0.30, 0.18)
    return Clutter(radius=0.041, shapes=(
        Box((0.036, 0.018, 0.014), (0.0, 0.0, 0.014), wood, collides=True),
    ))


def _puck() -> Clutter:
    return Clutter(radius=0.022, shapes=(
        Cylinder(0.022, 0.012, (0.0, 0.0, 0.012), (0.15, 0.55, 0.55), collides=True),
    ))


TABLETOP = TabletopSpec(
    suite="tabletop", colours=COLOURS, destinations=(_plate(0.070), _tray(0.065))
)

# Neighbours in colour, turned cubes, things that do not matter, and less room for error.
TABLETOP_HARD = TabletopSpec(
    suite="tabletop_hard",
    colours=COLOURS | {
        "orange": (0.95, 0.42, 0.06),
        "pink": (0.95, 0.45, 0.60),
        "purple": (0.45, 0.16, 0.70),
        "cyan": (0.15, 0.70, 0.85),
    },
    destinations=(_plate(0.060), _tray(0.055), _mat(0.055)),
    destination_gap=0.16,
    visible=5,
    cube_yaw=math.pi / 4,
    cube_area=((0.35, -0.26), (0.65, 0.26)),
    destination_area=((0.38, -0.24), (0.62, 0.24)),
    cube_destination_gap=0.115,
    clutter=(_can(), _block(), _puck()),
    clutter_gap=0.035,
    tolerance=0.03,
)

# The tasks of `tabletop` under another look, and one with another motion: pushing.
TABLETOP_SHIFT = TabletopSpec(
    suite="tabletop_shift",
    colours=COLOURS,
    destinations=(_plate(0.070), _tray(0.065), _mat(0.060, PUSH)),
    destination_gap=0.18,
    cube_area=((0.36, -0.24), (0.64, 0.24)),
    destination_area=((0.40, -0.24), (0.62, 0.24)),
    clutter_area=((0.31, -0.31), (0.70, 0.31)),
    agentview=Camera((1.08, 0.42, 0.70), (0.46, 0.02, 0.09), 42.0),
    look=Look(
        table_texture="gradient",
        table_colours=((0.42, 0.50, 0.47), (0.62, 0.66, 0.60)),
        table_repeat=3,
        sky_colours=((0.85, 0.78, 0.70), (0.55, 0.45, 0.40)),
        ambient=0.25,
        headlight=0.15,
        lights=(
            Light((0.1, 0.9, 1.3), (0.3, -0.8, -1.0), (0.65, 0.60, 0.50)),
            Light((1.4, -0.3, 1.2), (-0.8, 0.2, -1.0), (0.20, 0.22, 0.30)),
        ),
    ),
)

SUITES: dict[str, TabletopSpec] = {
    spec.suite: spec for spec in (TABLETOP, TABLETOP_HARD, TABLETOP_SHIFT)
}
