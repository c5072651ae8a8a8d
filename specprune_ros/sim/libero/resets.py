"""The random numbers of LIBERO's resets, the same for a trial in whatever order trials are played.

The published loop builds one environment per task, seeds NumPy's global generator with 0 and
resets once before every trial. A reset draws where the fixtures stand (stove, cabinet, rack: a
centimetre or two), which an initial state does not hold, so trial k looks as it does because of k
resets before it. The generator's state is therefore kept per trial, and for trials that were
skipped the draws are made without building the scene.

LIBERO also appends its samplers of joints (open drawers) once more at every load of the model, and
all of them draw: how often the model was loaded is part of the state.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from ...errors import SimulatorError
from .suites import ENV_SEED

ATTEMPTS = 20  # resets for one trial; LIBERO itself would try for ever


@dataclass(frozen=True)
class _Start:
    """What a trial's reset begins with. loads: of the model, that of the reset included."""

    generator: tuple
    loads: int


def build(make: Callable[[], Any], failure: type[Exception]) -> Any:
    """An environment. Building it resets it once, and that, too, may find no place for things."""
    with _numpy_generator():
        np.random.seed(ENV_SEED)  # so that whether it is built does not depend on chance
        for _ in range(ATTEMPTS):
            try:
                return make()
            except failure:
                continue
    raise _no_place()


class ResetStream:
    """Resets of the environment of one task, just built. env: the one inside LIBERO's wrapper.

    failure: the exception by which a reset says that things found no place. It alone is retried.
    """

    def __init__(self, env: Any, failure: type[Exception]) -> None:
        self._env, self._failure = env, failure
        self._samplers = list(env.object_property_initializers)  # of one load
        with _numpy_generator():
            env.seed(ENV_SEED)
            self._starts = [_Start(np.random.get_state(), loads=2)]
        self._places: tuple[np.ndarray, np.ndarray] | None = None

    def reset(self, trial: int) -> None:
        """Reset as the published loop does before this trial. Raises SimulatorError."""
        while len(self._starts) <= trial:
            self._starts.append(self._play(self._starts[-1], self._draw))
        after = self._play(self._starts[trial], self._env.reset)
        if len(self._starts) == trial + 1:
            self._starts.append(after)

    def _play(self, start: _Start, reset: Callable[[], Any]) -> _Start:
        """Reset from a start; returns that of the next trial."""
        loads = start.loads
        with _numpy_generator(start.generator):
            for _ in range(ATTEMPTS):
                # A reset appends those of its own load.
                self._env.object_property_initializers = self._samplers * (loads - 1)
                try:
                    reset()
                    return _Start(np.random.get_state(), loads + 1)
                except self._failure:
                    loads += 1
        raise _no_place()

    def _draw(self) -> None:
        """The draws of a reset, on the scene that is there, put back to how it is loaded."""
        env = self._env
        env.object_property_initializers = env.object_property_initializers + self._samplers
        model = env.sim.model._model
        if self._places is None:
            loaded = mujoco.MjModel.from_xml_string(env.model.get_xml())
            self._places = loaded.body_pos.copy(), loaded.body_quat.copy()
        model.body_pos[:], model.body_quat[:] = self._places
        env.sim.reset()
        env.sim.forward()
        env._reset_internal()


def _no_place() -> SimulatorError:
    return SimulatorError(
        f"LIBERO found no place for the things of this task in {ATTEMPTS} attempts"
    )


@contextmanager
def _numpy_generator(state: tuple | None = None) -> Iterator[None]:
    """Work on NumPy's global generator, in this state, and leave it as it was."""
    before = np.random.get_state()
    if state is not None:
        np.random.set_state(state)
    try:
        yield
    finally:
        np.random.set_state(before)
