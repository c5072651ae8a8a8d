"""What an arm may be given of an ActionChunk: every field is checked, whoever has sent it."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from specprune_ros.msg import ActionChunk

from ..errors import ActionError
from ..robot.gripper import check_actions, env_to_rlds_gripper
from ..robot.guard import DOF, EARLY, MOTION
from .conversions import NANOSECONDS, stamp_to_ns

_ROUNDING = 1e-6


@dataclass(frozen=True)
class ArmChunk:
    """A chunk that passed: actions [C, 7] in controller units, gripper 0 close .. 1 open."""

    stamp: float  # s
    actions: np.ndarray
    unit_scale: np.ndarray  # [6] m and rad
    hold: bool


def arm_chunk(message: ActionChunk, now: int, settings: Mapping) -> ArmChunk:
    """Check a message at a time (ns); ``settings`` are those of chunk_player_node.

    Raises:
        ActionError: names the field that does not fit, what it is and what it must be.
    """
    rows, columns = message.horizon, message.dof
    if columns != DOF or rows < 1 or len(message.data) != rows * columns:
        raise ActionError(f"horizon {rows}, dof {columns} and {len(message.data)} values do not "
                          f"fit together; dof must be {DOF} and data hold horizon * dof values")
    _check_meaning(message, settings)
    stamp = stamp_to_ns(message.header.stamp)
    _check_time(stamp, now, rows, settings["control_period"])
    actions = check_actions(np.asarray(message.data).reshape(rows, columns), "data")
    if message.gripper_convention == ActionChunk.MINUS_ONE_OPEN_PLUS_ONE_CLOSE:
        actions = actions.copy()
        actions[:, MOTION] = env_to_rlds_gripper(actions[:, MOTION])
    scale = np.asarray(message.unit_scale, np.float64)[:MOTION]
    _check_range(actions, scale, settings)
    hold = message.source == ActionChunk.HOLD
    if hold and actions[:, :MOTION].any():
        raise ActionError("source is HOLD, but the rows move")
    return ArmChunk(stamp / NANOSECONDS, actions, scale, hold)


def _check_meaning(message: ActionChunk, settings: Mapping) -> None:
    if message.action_space != ActionChunk.EE_DELTA_POSE:
        raise ActionError(f"action_space is {message.action_space}; it must be EE_DELTA_POSE "
                          f"({ActionChunk.EE_DELTA_POSE})")
    if message.gripper_convention not in (ActionChunk.ZERO_CLOSE_ONE_OPEN,
                                          ActionChunk.MINUS_ONE_OPEN_PLUS_ONE_CLOSE):
        raise ActionError(f"gripper_convention is {message.gripper_convention}, which is unknown")
    if message.header.frame_id != settings["base_frame"]:
        raise ActionError(f"frame_id is {message.header.frame_id!r}; the actions must refer to the "
                          f"axes of base_frame ({settings['base_frame']!r})")
    if not np.isclose(message.dt, settings["control_period"], rtol=1e-3, atol=0.0):
        raise ActionError(f"dt is {message.dt} s, but control_period is "
                          f"{settings['control_period']} s")
    scale = np.asarray(message.unit_scale, np.float64)
    if scale.shape != (DOF,) or not np.isfinite(scale).all() or (scale <= 0).any():
        raise ActionError(f"unit_scale is {scale.tolist()}; it must be {DOF} positive numbers")


def _check_time(stamp: int, now: int, rows: int, period: float) -> None:
    age = (now - stamp) / NANOSECONDS
    if age < -EARLY * period:
        raise ActionError(f"its stamp lies {-age:.3f} s in the future. Check the clocks, and "
                          "use_sim_time")
    if age >= rows * period:
        raise ActionError(f"it is {age:.3f} s old, and lasts {rows * period:.3f} s")


def _check_range(actions: np.ndarray, scale: np.ndarray, settings: Mapping) -> None:
    if (np.abs(actions[:, :MOTION]) > 1 + _ROUNDING).any() or (
            np.abs(actions[:, MOTION] - 0.5) > 0.5 + _ROUNDING).any():
        raise ActionError("values lie outside of the controller's range: motion -1..1, gripper "
                          "0..1 (or -1..1, by its convention)")
    speeds = actions[:, :MOTION] * scale / settings["control_period"]
    for kind, unit, columns in (("translation", "m/s", slice(0, 3)),
                                ("rotation", "rad/s", slice(3, 6))):
        limit = settings[f"max_speed.{kind}"]
        fastest = float(np.linalg.norm(speeds[:, columns], axis=1).max())
        if fastest > limit * (1 + _ROUNDING):
            raise ActionError(f"{kind} reaches {fastest:.3g} {unit}, beyond max_speed.{kind} "
                              f"({limit:g} {unit})")
