"""The protocol that every simulator follows, in LIBERO's conventions.

Actions are [7] controller units: dx dy dz (1 = 0.05 m), rotation vector (1 = 0.5 rad), both along
the axes of the base frame, then the gripper (-1 open, +1 close). Components are clipped to
[-1, 1], which is part of the action semantics.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Protocol

import numpy as np

from ..errors import ConfigurationError


@dataclass(frozen=True)
class SimObservation:
    """What the robot and its cameras report at one instant.

    stamp: simulated seconds since reset.
    images: ``primary`` and ``wrist``: uint8 [H, W, 3], RGB, upright; empty if not rendered.
    proprio: [8] tool position (m), axis-angle (rad), two finger joints (m, the second negative).
    joint_positions / joint_velocities: by ``joint_names`` (rad, m; per second).
    ee_twist: [6] tool velocity in the axes of the base frame (m/s, rad/s).
    """

    stamp: float
    images: Mapping[str, np.ndarray]
    proprio: np.ndarray
    joint_names: tuple[str, ...]
    joint_positions: np.ndarray
    joint_velocities: np.ndarray
    ee_twist: np.ndarray


class Simulator(Protocol):
    """A world with tasks. Not thread-safe: use it from one thread (GL contexts are per thread)."""

    suite: str
    control_period: float  # s
    max_steps: int  # control periods per episode, wait steps not counted
    base_frame: str
    tool_frame: str
    tasks: tuple[str, ...]  # one instruction per task, or a pattern where the state decides
    trials: int | None  # initial states of each task; None where any number is a seed

    @property
    def instruction(self) -> str: ...

    def reset(self, task: int | None, init_state: int) -> SimObservation:
        """Start the episode of an initial state (a seed); ``task`` None lets the state choose.

        Where each task has ``trials`` states, ``init_state`` is one of them, and without a task
        the number of an episode (:func:`numbered_episode`). The wait steps (gripper open, no
        motion) are done inside.
        """

    def observe(self, render: bool = True) -> SimObservation: ...

    def step(self, action: np.ndarray) -> bool:
        """Apply one action [7] for one control period; returns :meth:`success`."""

    def success(self) -> bool: ...

    def robot_description(self) -> str:
        """URDF of the arm, with ``base_frame``, ``tool_frame`` and the joint names of observe().

        Forward kinematics by it gives the pose of ``SimObservation.proprio``.
        """

    def close(self) -> None: ...


def numbered_episode(number: int, tasks: int, trials: int, suite: str) -> tuple[int, int]:
    """Task and trial of episode ``number`` of a suite: the tasks in turn, then the next trial.

    So the first ``tasks * trials`` numbers are every trial of every task, each once. Raises
    ConfigurationError for any other.
    """
    if not 0 <= number < tasks * trials:
        raise ConfigurationError(
            f"{suite} has {tasks * trials} episodes, {trials} of each of its {tasks} tasks: they "
            f"are numbered 0 to {tasks * trials - 1}, and none {number}"
        )
    return number % tasks, number // tasks
