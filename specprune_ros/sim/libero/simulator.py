"""A LIBERO suite behind the ``Simulator`` protocol, in the process that calls it."""
from __future__ import annotations

import numpy as np

from ...errors import ActionError, ConfigurationError, SimulatorError
from ..base import SimObservation, numbered_episode
from .arm import arm_description
from .environment import TaskEnvironment
from .package import find_package
from .suites import BASE_FRAME, CONTROL_PERIOD, MAX_STEPS, TOOL_FRAME, TRIALS


class LiberoSimulator:
    """One suite. See ``sim/base.py`` for the protocol; not thread-safe.

    An initial state is a trial (0 to 49) of the task that ``reset`` is given. Without a task it is
    the number of an episode: the tasks in turn, then the next trial of each.
    """

    control_period = CONTROL_PERIOD
    base_frame = BASE_FRAME
    tool_frame = TOOL_FRAME
    trials = TRIALS

    def __init__(self, suite: str, render_size: int = 256) -> None:
        """No environment is built before the first reset. Raises SimulatorError with a remedy."""
        if not 8 <= render_size <= 2048:
            raise ConfigurationError(f"render_size is {render_size}; it must be 8 to 2048 pixels")
        self._package = find_package()
        self._tasks = self._package.tasks(suite)
        self.suite = suite
        self.max_steps = MAX_STEPS[suite]
        self.tasks = tuple(task.instruction for task in self._tasks)
        self.versions = self._package.versions
        self._size = render_size
        self._task: int | None = None  # of the running episode
        self._built: int | None = None  # the task whose environment is there
        self._env: TaskEnvironment | None = None

    @property
    def instruction(self) -> str:
        """The running task in words, lower case."""
        return self.tasks[self._running_task()]

    def reset(self, task: int | None, init_state: int) -> SimObservation:
        """Start an episode as the published loop does, wait steps included.

        Raises ConfigurationError for a task or initial state that the suite does not have.
        """
        if task is None:
            task, trial = numbered_episode(init_state, len(self.tasks), self.trials, self.suite)
        else:
            trial = init_state
        if not 0 <= task < len(self.tasks):
            raise ConfigurationError(
                f"{self.suite} has tasks 0 to {len(self.tasks) - 1}, and none numbered {task}"
            )
        if not 0 <= trial < self.trials:
            raise ConfigurationError(
                f"each task of {self.suite} has initial states 0 to {self.trials - 1}, and none "
                f"numbered {trial}"
            )
        self._task = None  # no episode runs if this fails
        self._environment(task).reset(trial)
        self._task, self._steps = task, 0
        return self.observe()

    def observe(self, render: bool = True) -> SimObservation:
        """The present observation; without ``render`` the images are left out, and not drawn."""
        self._running_task()
        return self._env.observe(self._steps * CONTROL_PERIOD, render)

    def step(self, action: np.ndarray) -> bool:
        """Apply one action [7] for one control period; returns whether the task is done.

        Raises ActionError if the action is not [7] finite numbers.
        """
        self._running_task()
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ActionError(f"an action is 7 finite numbers, got {action!r}")
        done = self._env.step(action)
        self._steps += 1
        return done

    def success(self) -> bool:
        """Whether the goal of the task holds in the present state."""
        self._running_task()
        return self._env.success()

    def possible_tasks(self) -> tuple[int, ...]:
        """Indices of the tasks that could be asked for in the scene of the running one."""
        scene = self._tasks[self._running_task()].scene
        return tuple(i for i, task in enumerate(self._tasks) if task.scene == scene)

    def robot_description(self) -> str:
        """URDF of the arm, from the world to the tool."""
        return arm_description()

    def close(self) -> None:
        """Free the environment; safe to call twice."""
        self._task = self._built = None
        if self._env is not None:
            environment, self._env = self._env, None
            environment.close()

    def _running_task(self) -> int:
        if self._task is None:
            raise SimulatorError("no episode is running: call reset() first")
        return self._task

    def _environment(self, task: int) -> TaskEnvironment:
        """The task's environment; another task's is closed first, OpenGL contexts do not mix."""
        if self._built != task:
            self.close()
            self._env = TaskEnvironment(self._package, self._tasks[task], self._size)
            self._built = task
        return self._env
