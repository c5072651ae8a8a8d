"""What a world is made of: frozen dataclasses, numbers in metres and radians, no MuJoCo.

The frame of all positions is ``panda_link0``, which stands on the table top (z = 0).
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from .shapes import Colour, Shape, Vector

PLACE = "place"
PUSH = "push"

Area = tuple[tuple[float, float], tuple[float, float]]  # (x, y) of two opposite corners


@dataclass(frozen=True)
class Task:
    """One thing to do: which cube, where to, and how (``verb``: PLACE or PUSH)."""

    verb: str
    colour: str
    destination: str

    @property
    def instruction(self) -> str:
        if self.verb == PUSH:
            return f"push the {self.colour} cube onto the {self.destination}"
        return f"pick up the {self.colour} cube and place it on the {self.destination}"


@dataclass(frozen=True)
class Destination:
    """A place for cubes.

    shapes: in the frame of the destination, whose origin lies on the table top.
    top: height of the surface that a cube rests on.
    verb: the task that it is for.
    """

    name: str
    shapes: tuple[Shape, ...]
    top: float
    verb: str = PLACE


@dataclass(frozen=True)
class Clutter:
    """A loose object that no task asks for; ``radius`` bounds its footprint, z = 0 is its foot."""

    shapes: tuple[Shape, ...]
    radius: float
    mass: float = 0.08


@dataclass(frozen=True)
class Camera:
    """A camera fixed in the world that looks at a point; fovy in degrees."""

    position: Vector
    target: Vector
    fovy: float


@dataclass(frozen=True)
class Light:
    position: Vector
    direction: Vector
    diffuse: Colour = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Look:
    """Colours and lights. ``table_texture`` is a texture that MuJoCo makes by itself."""

    table_texture: str = "checker"  # checker, gradient, flat
    table_colours: tuple[Colour, Colour] = ((0.64, 0.52, 0.41), (0.59, 0.47, 0.36))
    table_repeat: int = 8
    sky_colours: tuple[Colour, Colour] = ((0.78, 0.82, 0.86), (0.45, 0.50, 0.55))
    ambient: float = 0.35
    headlight: float = 0.25
    lights: tuple[Light, ...] = (Light((0.6, -0.6, 1.6), (-0.1, 0.4, -1.0)),)


@dataclass(frozen=True)
class TabletopSpec:
    """A suite: everything that MJCF, initial states and success are made from.

    colours: name -> colour of the cubes that may appear; ``visible`` of them do.
    cube_yaw: cubes are turned by up to this much either way.
    cube_area / destination_area / clutter_area: where centres may lie.
    *_gap: least distance between centres; between footprints for clutter.
    push_run_up: free way behind a cube, away from the destination that it is pushed to.
    push_clearance: free width beside the way of a pushed cube, from its middle.
    tolerance: largest horizontal distance of the cube from the destination's centre.
    max_steps: control periods per episode, wait steps not counted.
    """

    suite: str
    colours: Mapping[str, Colour]
    destinations: tuple[Destination, ...]
    visible: int = 3
    max_steps: int = 160
    cube_half_size: float = 0.020
    cube_yaw: float = 0.0
    cube_area: Area = ((0.38, -0.22), (0.62, 0.22))
    destination_area: Area = ((0.40, -0.22), (0.60, 0.22))
    cube_gap: float = 0.085
    cube_destination_gap: float = 0.13
    destination_gap: float = 0.17
    clutter: tuple[Clutter, ...] = ()
    clutter_area: Area = ((0.33, -0.30), (0.68, 0.30))
    clutter_gap: float = 0.03
    push_run_up: float = 0.09
    push_clearance: float = 0.06
    tolerance: float = 0.05
    agentview: Camera = Camera((1.20, 0.0, 0.66), (0.46, 0.0, 0.11), 40.0)
    look: Look = field(default_factory=Look)

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Every task of the suite, colour by colour within each destination."""
        return tuple(
            Task(destination.verb, colour, destination.name)
            for destination in self.destinations
            for colour in self.colours
        )
