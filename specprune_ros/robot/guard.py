"""The guard between a policy and whatever moves: it passes a chunk as a whole, or not at all.

Saturation to the controller's range is part of what an action means: robosuite, LIBERO and the
simulators of this package clip a row to [-1, 1] before they scale it, so a policy may overshoot a
little. The guard does the same. Nothing else is ever clamped: a chunk that breaks a limit is
refused, with the reason.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..errors import ConfigurationError

MOTION = 6  # three translations, three rotations; the gripper follows
DOF = MOTION + 1
AXES = ("x", "y", "z", "rx", "ry", "rz", "gripper")
EARLY = 2.0  # control periods that a stamp may lie ahead of the clock: it overtook the clock
_ROUNDING = 1e-9  # relative; a value that is at a limit up to rounding is at the limit


class PoseLike(Protocol):
    """Pose of the tool in the base frame (robot.kinematics.Pose)."""

    position: np.ndarray  # [3], m
    quaternion_xyzw: np.ndarray  # [4]


@dataclass(frozen=True)
class GuardLimits:
    """What a chunk must keep to. Distances are per control period unless stated otherwise.

    max_command: |value| before saturation, controller units (gripper: its range counts as -1..1).
    axis: |value| of each of the six motion axes after saturation, controller units.
    step_translation, step_rotation: norm of one row, m and rad.
    change_translation, change_rotation: norm of the difference of consecutive rows, m and rad.
    jump_translation, jump_rotation: of the tool from where the chunk's observation was taken to
        where it is measured now, m and rad.
    workspace: lower and upper corner [3] of the box in the base frame (m) that the tool stays in.
    max_age: of the observation, s; a chunk without a row to play is too old in any case.
    needs_pose: refuse where the pose of the tool is not known; the workspace needs it, too.
    """

    max_command: float = 3.0
    axis: tuple[float, ...] = (1.0,) * MOTION
    step_translation: float = 0.1
    step_rotation: float = 1.0
    change_translation: float = 0.2
    change_rotation: float = 2.0
    jump_translation: float = 0.2
    jump_rotation: float = 1.0
    workspace: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    max_age: float = math.inf
    needs_pose: bool = False

    def __post_init__(self) -> None:
        if len(self.axis) != MOTION:
            raise ConfigurationError(f"the axis limits have {len(self.axis)} values, not {MOTION}")
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        numbers |= {f"axis limit of {name}": value for name, value in zip(AXES, self.axis)}
        for name, value in numbers.items():
            if math.isnan(value) or value < 0:
                raise ConfigurationError(f"{name} is {value}; it must not be negative")
        if self.workspace is not None:
            lower, upper = np.asarray(self.workspace[0]), np.asarray(self.workspace[1])
            if lower.shape != (3,) or upper.shape != (3,) or not (lower < upper).all():
                raise ConfigurationError(
                    f"the workspace from {list(self.workspace[0])} to {list(self.workspace[1])} is "
                    "no box; give x, y, z of its lower and of its upper corner in m")

    def without_workspace(self) -> GuardLimits:
        """The same limits where the tool may be anywhere."""
        return replace(self, workspace=None)


@dataclass(frozen=True)
class Proposal:
    """A chunk that asks to be published.

    actions: [C, 7] controller units, gripper 0 close .. 1 open. rows: C that is expected.
    unit_scale: [6] m and rad per controller unit. dt: s per row.
    age: s from the observation to now. start, measured: pose of the tool at the observation and
        now, None if not known.
    """

    actions: object
    rows: int
    unit_scale: tuple[float, ...]
    dt: float
    age: float
    start: PoseLike | None = None
    measured: PoseLike | None = None


@dataclass(frozen=True)
class Verdict:
    """actions: [C, 7] saturated, of a chunk that may be published; None of one that is refused.

    rule: the limit that was broken (a word for counters). reason: in words. saturated: how many
    values were clipped to the controller's range.
    """

    actions: np.ndarray | None
    rule: str = ""
    reason: str = ""
    saturated: int = 0

    @property
    def accepted(self) -> bool:
        return self.actions is not None


class _Refused(Exception):
    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


def saturate(actions: np.ndarray) -> np.ndarray:
    """Actions [C, 7] clipped to the controller's range: motion to [-1, 1], gripper to [0, 1]."""
    clipped = np.array(actions, dtype=np.float64)
    np.clip(clipped[:, :MOTION], -1.0, 1.0, out=clipped[:, :MOTION])
    np.clip(clipped[:, MOTION], 0.0, 1.0, out=clipped[:, MOTION])
    return clipped


def judge(proposal: Proposal, limits: GuardLimits) -> Verdict:
    """Pass a chunk, or refuse it. Never raises: what cannot be judged is refused."""
    try:
        raw = _checked_array(proposal)
        _check_age(proposal, limits)
        _check_command(raw, limits)
        actions = saturate(raw)
        _check_axes(actions, limits)
        steps = actions[:, :MOTION] * np.asarray(proposal.unit_scale, np.float64)  # [C, 6] m, rad
        if not np.isfinite(steps).all():
            raise _Refused("finite", "unit_scale makes steps that are not finite")
        _check_steps(steps, limits)
        _check_pose(proposal, steps, limits)
    except _Refused as refused:
        return Verdict(None, refused.rule, str(refused))
    except Exception as error:  # fail closed
        return Verdict(None, "internal", f"cannot be judged: {type(error).__name__}: {error}")
    return Verdict(actions, saturated=int((actions != raw).sum()))


def _checked_array(proposal: Proposal) -> np.ndarray:
    try:
        raw = np.array(proposal.actions)
        if raw.dtype.kind not in "iuf":
            raise TypeError(f"they are {raw.dtype}")
        raw = raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise _Refused("shape", f"the actions are no numbers: {error}") from error
    if raw.shape != (proposal.rows, DOF) or proposal.rows < 1:
        raise _Refused("shape", f"shape {raw.shape}, expected ({proposal.rows}, {DOF})")
    if not np.isfinite(raw).all():
        row, axis = np.argwhere(~np.isfinite(raw))[0]
        raise _Refused("finite", f"{AXES[axis]} of row {row} is {raw[row, axis]}")
    return raw


def _check_age(proposal: Proposal, limits: GuardLimits) -> None:
    age, dt = proposal.age, proposal.dt
    if not (math.isfinite(age) and math.isfinite(dt) and dt > 0):
        raise _Refused("stale", f"age {age} s and control period {dt} s make no sense")
    if age < -EARLY * dt:
        raise _Refused("stale", f"its observation lies {-age:.3f} s in the future")
    latest = min(limits.max_age, proposal.rows * dt * (1 - _ROUNDING))
    if age > latest:
        raise _Refused("stale", f"its observation is {age:.3f} s old, {latest:.3f} s are allowed "
                       f"(guard.max_age; the chunk lasts {proposal.rows * dt:.3f} s)")


def _check_command(raw: np.ndarray, limits: GuardLimits) -> None:
    size = np.abs(raw)
    size[:, MOTION] = 2.0 * np.abs(np.clip(raw[:, MOTION], -1e9, 1e9) - 0.5)
    _at_most(size, limits.max_command, "command", "guard.max_command", raw)


def _check_axes(actions: np.ndarray, limits: GuardLimits) -> None:
    size = np.abs(actions[:, :MOTION])
    _at_most(size, np.asarray(limits.axis), "axis", "guard.axis_limit", actions)


def _at_most(size: np.ndarray, limit: float | np.ndarray, rule: str, parameter: str,
             values: np.ndarray) -> None:
    limit = np.broadcast_to(limit, size.shape)
    beyond = size > limit * (1 + _ROUNDING)
    if beyond.any():
        row, axis = np.argwhere(beyond)[0]
        scale = f" ({size[row, axis]:.4g} where 0 to 1 counts as -1 to 1)" if axis == MOTION else ""
        raise _Refused(rule, f"{AXES[axis]} of row {row} is {values[row, axis]:.4g}{scale}, beyond "
                       f"{parameter} {limit[row, axis]:.4g}")


def _check_steps(steps: np.ndarray, limits: GuardLimits) -> None:
    parts = ((slice(0, 3), "translation", "m", limits.step_translation, limits.change_translation),
             (slice(3, 6), "rotation", "rad", limits.step_rotation, limits.change_rotation))
    for columns, kind, unit, step, change in parts:
        for rule, sizes, limit in (
                ("step", np.linalg.norm(steps[:, columns], axis=1), step),
                ("change", np.linalg.norm(np.diff(steps[:, columns], axis=0), axis=1), change)):
            beyond = np.flatnonzero(sizes > limit * (1 + _ROUNDING))
            if len(beyond):
                row = int(beyond[0])
                where = f"row {row}" if rule == "step" else f"rows {row} to {row + 1}"
                raise _Refused(rule, f"{kind} of {where}: {sizes[row]:.4g} {unit} in one control "
                               f"period, beyond guard.{rule}.{kind} {limit:.4g} {unit}")


def _check_pose(proposal: Proposal, steps: np.ndarray, limits: GuardLimits) -> None:
    start, measured = proposal.start, proposal.measured
    if start is None or measured is None:
        if limits.needs_pose or limits.workspace is not None:
            raise _Refused("pose", "the pose of the tool is not known")
        return
    _check_jump(start, measured, limits)
    if limits.workspace is None:
        return
    # What is too late to be played is left out, but the arm may be played the chunk from its start.
    first = max(0, math.floor(proposal.age / proposal.dt))
    for origin, rows in ((start, steps), (measured, steps[first:])):
        way = np.asarray(origin.position) + np.vstack([np.zeros(3), np.cumsum(rows[:, :3], axis=0)])
        _check_box(way, limits.workspace)


def _check_jump(start: PoseLike, measured: PoseLike, limits: GuardLimits) -> None:
    distance = float(np.linalg.norm(np.asarray(measured.position) - np.asarray(start.position)))
    cosine = abs(float(np.dot(measured.quaternion_xyzw, start.quaternion_xyzw)))
    angle = 2.0 * math.acos(min(1.0, cosine))
    for kind, unit, value, limit in (("translation", "m", distance, limits.jump_translation),
                                     ("rotation", "rad", angle, limits.jump_rotation)):
        if not value <= limit * (1 + _ROUNDING):  # NaN is refused
            raise _Refused("jump", f"the tool is {value:.4g} {unit} away from where the chunk "
                           f"starts, beyond guard.jump.{kind} {limit:.4g} {unit}")


def _check_box(way: np.ndarray, workspace: tuple) -> None:
    lower, upper = np.asarray(workspace[0]), np.asarray(workspace[1])
    inside = (way >= lower) & (way <= upper)  # False for NaN
    if not inside.all():
        row, axis = np.argwhere(~inside)[0]
        raise _Refused("workspace", f"{AXES[axis]} would be {way[row, axis]:.4g} m after {row} "
                       f"rows, outside of guard.workspace {lower[axis]:.4g} to {upper[axis]:.4g} m")


@dataclass
class Latch:
    """Remembers that something must not go on before a person has looked at it.

    reason: why it is latched, "" if it is not. in_a_row: failures since the last success.
    """

    reason: str = ""
    in_a_row: int = 0
    total: int = 0  # failures ever

    def fail(self, reason: str, latch_after: int) -> bool:
        """Count a failure; returns whether it latches now. ``latch_after`` in a row do."""
        self.in_a_row += 1
        self.total += 1
        if self.reason or self.in_a_row < latch_after:
            return False
        return self.trip(f"{self.in_a_row} failures in a row, the last: {reason}")

    def trip(self, reason: str) -> bool:
        """Latch at once; returns whether it was not latched before."""
        if self.reason:
            return False
        self.reason = reason
        return True

    def succeed(self) -> None:
        """Count a success."""
        self.in_a_row = 0

    def clear(self) -> str:
        """Unlatch; returns the reason it had."""
        reason, self.reason, self.in_a_row = self.reason, "", 0
        return reason
