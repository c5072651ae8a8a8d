"""A LIBERO suite that another process plays, with the Python of another environment.

LIBERO needs an older MuJoCo, and brings many packages, which this environment need not share.
"""
from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import specprune_ros

from ... import errors
from ...errors import ActionError, ConfigurationError, SimulatorError
from ..base import SimObservation
from . import wire
from .arm import arm_description
from .suites import (
    BASE_FRAME,
    CONTROL_PERIOD,
    MAX_STEPS,
    PYTHON_VARIABLE,
    TOOL_FRAME,
    TRIALS,
)

_PATIENCE = 600.0  # s for one answer; building a scene takes seconds, a minute on a busy machine
_FAREWELL = 10.0  # s to end by itself
_TAIL = 1500  # bytes of its log that an error shows

# The other environment need not have this package: it is taken from here, and nothing else is.
_BOOT = """
import importlib.util, sys
folder = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location(
    "specprune_ros", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["specprune_ros"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from specprune_ros.sim.libero.server import main
sys.exit(main(sys.argv[1:]))
"""


class RemoteLibero:
    """One suite. See ``sim/base.py`` for the protocol, ``LiberoSimulator`` for initial states."""

    control_period = CONTROL_PERIOD
    base_frame = BASE_FRAME
    tool_frame = TOOL_FRAME
    trials = TRIALS

    def __init__(self, python: str, suite: str, render_size: int = 256) -> None:
        """python: path of the interpreter. Raises SimulatorError if it cannot play LIBERO."""
        self._connection: Connection | None = None
        self._python = python
        self.suite = suite
        self.max_steps = MAX_STEPS[suite]
        self._start(python, suite, render_size)
        try:
            hello, _ = self._answer()
        except BaseException:
            self.close()
            raise
        self.tasks: tuple[str, ...] = tuple(hello["tasks"])
        self.versions: str = hello["versions"]
        self._instruction: str | None = None
        self._possible: tuple[int, ...] = ()

    @property
    def instruction(self) -> str:
        """The running task in words, lower case."""
        if self._instruction is None:
            raise SimulatorError("no episode is running: call reset() first")
        return self._instruction

    def reset(self, task: int | None, init_state: int) -> SimObservation:
        """Start an episode as the published loop does, wait steps included."""
        self._instruction = None
        task = None if task is None else int(task)
        fields, arrays = self._ask({"call": "reset", "task": task, "init_state": int(init_state)})
        self._instruction = fields["instruction"]
        self._possible = tuple(fields["possible_tasks"])
        return wire.unpack(fields, arrays)

    def observe(self, render: bool = True) -> SimObservation:
        """The present observation; without ``render`` the images are left out, and not drawn."""
        return wire.unpack(*self._ask({"call": "observe", "render": bool(render)}))

    def step(self, action: np.ndarray) -> bool:
        """Apply one action [7] for one control period; returns whether the task is done."""
        try:
            action = np.asarray(action, np.float64)
        except (TypeError, ValueError):
            raise ActionError(f"an action is 7 finite numbers, got {action!r}") from None
        return self._ask({"call": "step"}, {"action": action})[0]["success"]

    def success(self) -> bool:
        """Whether the goal of the task holds in the present state."""
        return self._ask({"call": "success"})[0]["success"]

    def possible_tasks(self) -> tuple[int, ...]:
        """Indices of the tasks that could be asked for in the scene of the running one."""
        return self._possible

    def robot_description(self) -> str:
        """URDF of the arm, from the world to the tool."""
        return arm_description()

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._connection is None:
            return
        try:
            wire.send(self._connection, {"call": "close"})
        except OSError:
            pass  # it has ended already
        self._connection.close()
        self._connection = None
        try:
            self._process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __del__(self) -> None:
        self.close()

    # ------------------------------------------------------------------ the process

    def _start(self, python: str, suite: str, render_size: int) -> None:
        folder = Path(specprune_ros.__file__).resolve().parent
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()
        command = [python, "-c", _BOOT, str(folder), str(theirs.fileno()), suite, str(render_size)]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                ours.close()
                self._log.close()
                raise ConfigurationError(
                    f"{PYTHON_VARIABLE} is '{python}', which cannot be started ({error}): name "
                    "the python of an environment with LIBERO"
                ) from None
        self._connection = Connection(ours.detach())

    def _ask(self, fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
             ) -> tuple[dict[str, Any], wire.Arrays]:
        if self._connection is None:
            raise SimulatorError("the simulator is closed")
        try:
            wire.send(self._connection, fields, arrays)
        except OSError:
            raise self._death() from None
        return self._answer()

    def _answer(self) -> tuple[dict[str, Any], wire.Arrays]:
        """The answer to the last message; what failed there is raised here."""
        try:
            if not self._connection.poll(_PATIENCE):
                self._process.kill()
                raise SimulatorError(
                    f"LIBERO's process gave no answer for {_PATIENCE:g} s and was ended. "
                    f"{self._tail()}"
                )
            fields, arrays = wire.receive(self._connection)
        except (EOFError, OSError):
            raise self._death() from None
        if "error" in fields:
            raise getattr(errors, fields["error"], SimulatorError)(fields["message"])
        return fields, arrays

    def _death(self) -> SimulatorError:
        try:
            status = self._process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        how = f"with status {status}" if status >= 0 else f"by signal {-status}"
        return SimulatorError(
            f"LIBERO's process ({self._python}) ended {how}. {self._tail()}"
        )

    def _tail(self) -> str:
        size = self._log.seek(0, 2)
        self._log.seek(max(0, size - _TAIL))
        text = self._log.read().decode(errors="replace").strip()
        return f"The end of its log:\n{text}" if text else "Its log is empty."
