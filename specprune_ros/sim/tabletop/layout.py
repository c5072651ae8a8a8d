"""Initial states from seeds: numpy only, so that a seed means the same on every machine."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ConfigurationError, SimulatorError
from .panda import HOME_POSITIONS
from .spec import PUSH, Area, TabletopSpec

HOME_NOISE = 0.02  # rad, standard deviation of each joint of the arm
_DRAWS = 50  # places tried for one thing before starting over
_RESTARTS = 2000  # the suites shipped need 1 to 100


@dataclass(frozen=True)
class Layout:
    """An initial state.

    colours: of the visible cubes, in the order of cube_xy [n, 2] (m) and cube_yaw [n] (rad).
    destination_xy [k, 2], clutter_xy [m, 2] in the order of the spec; arm_positions [7] (rad).
    task: index into the spec's tasks.
    """

    colours: tuple[str, ...]
    cube_xy: np.ndarray
    cube_yaw: np.ndarray
    destination_xy: np.ndarray
    clutter_xy: np.ndarray
    arm_positions: np.ndarray
    task: int


def sample_layout(spec: TabletopSpec, task: int | None, seed: int) -> Layout:
    """The initial state of a seed; ``task`` None lets the seed choose it.

    Positions depend on the seed alone. A task whose cube the seed does not show gets it in the
    place of the cube that the seed would have asked for. Raises ConfigurationError for a task or
    a seed out of range.
    """
    tasks = spec.tasks
    if task is not None and not 0 <= task < len(tasks):
        raise ConfigurationError(
            f"task {task} is not in suite {spec.suite!r}; it has tasks 0 to {len(tasks) - 1}"
        )
    if seed < 0:
        raise ConfigurationError(f"init_state is {seed}; seeds are 0 or greater")
    rng = np.random.default_rng(seed)
    colours = [list(spec.colours)[i] for i in rng.permutation(len(spec.colours))[: spec.visible]]
    cube_xy, destination_xy, clutter_xy = _place(spec, rng)
    cube_yaw = rng.uniform(-spec.cube_yaw, spec.cube_yaw, spec.visible)
    arm_positions = np.array(HOME_POSITIONS) + rng.normal(0.0, HOME_NOISE, len(HOME_POSITIONS))
    target = int(rng.integers(spec.visible))
    destination = spec.destinations[int(rng.integers(len(spec.destinations)))].name
    if task is None:
        task = next(
            index for index, candidate in enumerate(tasks)
            if (candidate.colour, candidate.destination) == (colours[target], destination)
        )
    elif tasks[task].colour not in colours:
        colours[target] = tasks[task].colour
    return Layout(
        tuple(colours), cube_xy, cube_yaw, destination_xy, clutter_xy, arm_positions, task
    )


@dataclass(frozen=True)
class _Item:
    """Something to place: its kind, where its centre may lie, and the radius of its footprint."""

    kind: str  # "destination", "cube" or "clutter"
    area: Area
    radius: float


def _items(spec: TabletopSpec) -> list[_Item]:
    """In the order of placement: the large things first."""
    destination = _Item("destination", spec.destination_area, spec.destination_gap / 2)
    cube = _Item("cube", spec.cube_area, spec.cube_half_size * 2**0.5)
    return [
        *[destination] * len(spec.destinations),
        *[cube] * spec.visible,
        *[_Item("clutter", spec.clutter_area, clutter.radius) for clutter in spec.clutter],
    ]


def _gap(spec: TabletopSpec, one: _Item, other: _Item) -> float:
    """Least distance between two centres."""
    kinds = {one.kind, other.kind}
    if "clutter" in kinds:
        return one.radius + other.radius + spec.clutter_gap
    if kinds == {"cube"}:
        return spec.cube_gap
    return spec.destination_gap if kinds == {"destination"} else spec.cube_destination_gap


def _place(
    spec: TabletopSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres of cubes, destinations and clutter, one by one; all anew if one fits nowhere."""
    items = _items(spec)
    gaps = np.array([[_gap(spec, one, other) for other in items] for one in items])
    ends = np.cumsum([len(spec.destinations), spec.visible])

    def fits(index: int) -> bool:
        distances = np.linalg.norm(xy[:index] - xy[index], axis=1)
        if (distances < gaps[index, :index]).any():
            return False
        placed = xy[ends[0] : index + 1]
        return items[index].kind != "cube" or _corridors_clear(spec, placed, xy[: ends[0]])

    for _ in range(_RESTARTS):
        xy = np.zeros((len(items), 2))
        for index, item in enumerate(items):
            for _ in range(_DRAWS):
                xy[index] = rng.uniform(*item.area)
                if fits(index):
                    break
            else:
                break
        else:
            destinations, cubes, clutter = np.split(xy, ends)
            return cubes, destinations, clutter
    raise SimulatorError(
        f"suite {spec.suite!r}: no free places found in {_RESTARTS} attempts; "
        "its areas are too small for its gaps"
    )


def _corridors_clear(spec: TabletopSpec, cubes: np.ndarray, destinations: np.ndarray) -> bool:
    """Whether each of the cubes can be pushed straight to where cubes are pushed to."""
    for index, destination in enumerate(spec.destinations):
        if destination.verb != PUSH:
            continue
        goal = destinations[index]
        others = np.delete(destinations, index, axis=0)
        for number, cube in enumerate(cubes):
            way = goal - cube
            behind = cube - spec.push_run_up * way / np.linalg.norm(way)
            if (behind < spec.clutter_area[0]).any() or (behind > spec.clutter_area[1]).any():
                return False
            obstacles = [(others, spec.destination_gap / 2), (np.delete(cubes, number, axis=0), 0)]
            for points, radius in obstacles:
                if len(points) and _to_segment(points, behind, goal) < spec.push_clearance + radius:
                    return False
    return True


def _to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Least distance of points [n, 2] from a line segment."""
    way = end - start
    along = np.clip((points - start) @ way / (way @ way), 0.0, 1.0)
    return float(np.linalg.norm(points - start - along[:, None] * way, axis=1).min())
