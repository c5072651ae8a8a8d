"""Initial states from seeds: numpy only, so that a seed means the same on every machine."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ConfigurationError, SimulatorError
from .panda import HOME_POSITIONS
from .spec import Area, TabletopSpec

HOME_NOISE = 0.02  # rad, standard deviation of each joint of the arm
_DRAWS = 5000  # attempts to place everything; one in a few succeeds in the suites shipped


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


def _place(
    spec: TabletopSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    for _ in range(_DRAWS):
        cubes = _uniform(rng, spec.cube_area, spec.visible)
        destinations = _uniform(rng, spec.destination_area, len(spec.destinations))
        if (
            _nearest(cubes) < spec.cube_gap
            or _nearest(destinations) < spec.destination_gap
            or _nearest(cubes, destinations) < spec.cube_destination_gap
        ):
            continue
        clutter = _place_clutter(spec, rng, cubes, destinations)
        if clutter is not None:
            return cubes, destinations, clutter
    raise SimulatorError(
        f"suite {spec.suite!r}: no free places found in {_DRAWS} draws; "
        "its areas are too small for its gaps"
    )


def _place_clutter(
    spec: TabletopSpec, rng: np.random.Generator, cubes: np.ndarray, destinations: np.ndarray
) -> np.ndarray | None:
    """Places beside everything else, None if a few draws per object find none."""
    placed: list[np.ndarray] = []
    cube_radius = spec.cube_half_size * 2**0.5
    for clutter in spec.clutter:
        for _ in range(50):
            xy = _uniform(rng, spec.clutter_area, 1)
            clear = clutter.radius + spec.clutter_gap
            others = [
                np.linalg.norm(other - xy[0]) > clear + neighbour.radius
                for other, neighbour in zip(placed, spec.clutter, strict=False)
            ]
            if (
                _nearest(xy, cubes) > clear + cube_radius
                and _nearest(xy, destinations) > clear + spec.destination_gap / 2
                and all(others)
            ):
                placed.append(xy[0])
                break
        else:
            return None
    return np.array(placed).reshape(-1, 2)


def _uniform(rng: np.random.Generator, area: Area, count: int) -> np.ndarray:
    return rng.uniform(area[0], area[1], (count, 2))


def _nearest(points: np.ndarray, others: np.ndarray | None = None) -> float:
    """Least distance between two points of one set, or of two."""
    distances = np.linalg.norm(points[:, None] - (points if others is None else others), axis=-1)
    if others is None:
        distances = distances[np.triu_indices(len(points), 1)]
    return float(distances.min()) if distances.size else np.inf
