"""A scripted expert: from the privileged state to actions, the same kind that a policy gives.

:func:`expert_action` is a pure function of scene and phase, so any state can be labelled, also
one that the expert would not have come to by itself. It corrects the orientation of the tool all
the way, which gives a policy trained on it the rotations that undo its own errors.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...robot.gripper import CLOSE, OPEN
from ...robot.rotations import matrix_to_axis_angle
from .control import POSITION_SCALE, ROTATION_SCALE
from .spec import PUSH
from .world import Scene, TabletopSimulator

SPEED_LIMIT = 0.9375  # norm of the translation, controller units; the largest in LIBERO's data
ROTATION_LIMIT = 0.375  # likewise
GAIN = 0.9  # below 1, so that the servo's critical damping is not undone

HOVER = 0.09  # m, tool above the cube's centre before the descent
CARRY = 0.13  # m, height of the tool on the way to the destination
NEAR = 0.008  # m, horizontal accuracy that a descent or a release asks for
LOST = 0.035  # m, a cube further than this from the tool is not in the hand
BEHIND = 0.060  # m, tool behind the cube's centre before a push
PUSH_STEP = 0.025  # m ahead of the tool: half speed
PUSH_ASIDE = 0.025  # m off the line: the push has failed and begins anew
GRASP_TICKS = 5
RELEASE_TICKS = 3


@dataclass(frozen=True)
class Phase:
    """Where the expert is in its plan; ``ticks`` counts control periods of a waiting phase."""

    name: str = "approach"
    ticks: int = 0


@dataclass(frozen=True)
class _Step:
    """What a phase wants: tool position, yaw, gripper; and the phase that follows."""

    position: np.ndarray
    gripper: float
    next: Phase
    yaw: float = 0.0


def expert_action(scene: Scene, phase: Phase) -> tuple[np.ndarray, Phase]:
    """Action [7] in the environment's convention, and the phase for the next call."""
    plan = _push if scene.task.verb == PUSH else _place
    for _ in range(4):  # phases that are already over are passed through
        step = plan(scene, phase)
        if step.next.name == phase.name:
            break
        phase = step.next
    return _action(scene, step), step.next


class ScriptedExpert:
    """Keeps the phase of one episode; make a new one per episode."""

    def __init__(self) -> None:
        self.phase = Phase()

    def act(self, simulator: TabletopSimulator) -> np.ndarray:
        """Action [7] for the present state."""
        action, self.phase = expert_action(simulator.scene(), self.phase)
        return action


def _action(scene: Scene, step: _Step) -> np.ndarray:
    translation = GAIN * (step.position - scene.tool_position) / POSITION_SCALE
    cosine, sine = np.cos(step.yaw), np.sin(step.yaw)
    # the tool points down, its x axis forward and turned by yaw
    wanted = np.array([[cosine, sine, 0.0], [sine, -cosine, 0.0], [0.0, 0.0, -1.0]])
    rotation = GAIN * matrix_to_axis_angle(wanted @ scene.tool_rotation.T) / ROTATION_SCALE
    return np.concatenate([
        _limited(translation, SPEED_LIMIT), _limited(rotation, ROTATION_LIMIT), [step.gripper]
    ])


def _limited(vector: np.ndarray, limit: float) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    return vector if norm <= limit else vector * (limit / norm)


def _wait(scene: Scene, phase: Phase, gripper: float, ticks: int, then: str, yaw: float) -> _Step:
    following = Phase(phase.name, phase.ticks + 1) if phase.ticks < ticks else Phase(then)
    return _Step(scene.tool_position, gripper, following, yaw)


def _place(scene: Scene, phase: Phase) -> _Step:
    tool, cube, goal = scene.tool_position, scene.cube_position, scene.destination
    yaw = _nearest_yaw(scene, scene.cube_yaw, np.pi / 2)
    aside = float(np.hypot(*(tool - cube)[:2]))
    lost = float(np.linalg.norm(tool - cube)) > LOST

    if phase.name == "approach":
        target = cube + (0.0, 0.0, HOVER)
        ready = aside < NEAR and abs(tool[2] - target[2]) < 0.03
        return _Step(target, OPEN, Phase("descend") if ready else phase, yaw)
    if phase.name == "descend":
        if aside > 2.5 * NEAR:
            return _Step(tool, OPEN, Phase("approach"), yaw)
        down = abs(tool[2] - cube[2]) < 0.006 and aside < NEAR
        return _Step(cube, OPEN, Phase("grasp") if down else phase, yaw)
    if phase.name == "grasp":
        return _wait(scene, phase, CLOSE, GRASP_TICKS, "lift", yaw)
    if phase.name == "lift":
        if lost:
            return _Step(tool, OPEN, Phase("approach"), yaw)
        up = tool[2] > CARRY - 0.03
        return _Step(np.array([*tool[:2], CARRY]), CLOSE, Phase("carry") if up else phase, yaw)
    if phase.name == "carry":
        if lost:
            return _Step(tool, OPEN, Phase("approach"), yaw)
        target = np.array([*goal[:2], CARRY])
        there = float(np.hypot(*(tool - goal)[:2])) < 1.5 * NEAR
        return _Step(target, CLOSE, Phase("lower") if there else phase)
    if phase.name == "lower":
        if lost:
            return _Step(tool, OPEN, Phase("approach"), yaw)
        bottom = float(cube[2]) - scene.cube_half_size - float(goal[2])
        target = np.array([*goal[:2], tool[2] - bottom])
        return _Step(target, CLOSE, Phase("release") if bottom < 0.008 else phase)
    if phase.name == "release":
        return _wait(scene, phase, OPEN, RELEASE_TICKS, "retreat", 0.0)
    return _Step(tool + (0.0, 0.0, 0.06), OPEN, Phase("retreat"))


def _push(scene: Scene, phase: Phase) -> _Step:
    """Closed fingers glide down behind the cube, then push it in a line to the destination."""
    tool, cube, goal = scene.tool_position, scene.cube_position, scene.destination
    way = (goal - cube)[:2]
    left = float(np.linalg.norm(way))
    direction = way / max(left, 1e-6)
    height = scene.cube_half_size
    yaw = _nearest_yaw(scene, float(np.arctan2(direction[1], direction[0])), np.pi)
    offset = tool[:2] - cube[:2]
    along = float(offset @ direction)  # negative behind the cube
    aside = offset - along * direction

    if phase.name == "approach":
        start = cube[:2] - BEHIND * direction
        away = float(np.hypot(*(tool[:2] - start)))
        # low only at the start point, so that nothing is hit on the way there
        target = np.array([*start, min(CARRY, height + 1.5 * max(0.0, away - NEAR))])
        there = away < NEAR and tool[2] < height + NEAR
        return _Step(target, CLOSE, Phase("push") if there else phase, yaw)
    if phase.name == "push":
        if left < NEAR:
            return _Step(tool, CLOSE, Phase("retreat"), yaw)
        riding = tool[2] > height + 1.5 * NEAR  # on the cube's edge instead of behind it
        if riding or along > 0.0 or float(np.linalg.norm(aside)) > PUSH_ASIDE:
            return _Step(np.array([*tool[:2], CARRY]), CLOSE, Phase("clear"), yaw)
        # Stop where the cube is to lie, back on the line twice as fast as forward.
        ahead = min(left, PUSH_STEP) * direction - 2.0 * aside
        return _Step(np.array([*(tool[:2] + ahead), height]), CLOSE, phase, yaw)
    if phase.name == "clear":
        up = tool[2] > CARRY - 0.03
        target = np.array([*tool[:2], CARRY])
        return _Step(target, CLOSE, Phase("approach") if up else phase, yaw)
    # Straight up: the direction means nothing where the cube has arrived.
    again = left > PUSH_ASIDE and tool[2] > CARRY - 0.03
    target = np.array([*tool[:2], CARRY])
    return _Step(target, CLOSE, Phase("approach") if again else phase, yaw)


def _nearest_yaw(scene: Scene, yaw: float, period: float) -> float:
    """Of the yaws that a symmetric thing looks alike at, the one the tool has the least way to."""
    tool = float(np.arctan2(scene.tool_rotation[1, 0], scene.tool_rotation[0, 0]))
    # measured from the middle between tool and straight ahead, which keeps off the joint limits
    return yaw - period * round((yaw - 0.5 * tool) / period)
