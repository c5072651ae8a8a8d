"""What a simulator may be given of an ActionChunk: checks, and its rows in LIBERO's convention."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ActionError
from ..robot.gripper import check_actions, to_env_actions
from .conversions import NANOSECONDS, stamp_to_ns

# SI value of one controller unit: metres, radians, gripper (specprune_ros/sim/base.py).
UNIT_SCALE = (0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0)
DOF = len(UNIT_SCALE)

# Values of the constants of ActionChunk.msg.
EE_DELTA_POSE = 1
ZERO_CLOSE_ONE_OPEN = 1
MINUS_ONE_OPEN_PLUS_ONE_CLOSE = 2
HOLD = 2  # of source


@dataclass(frozen=True)
class ChunkContract:
    """What the world behind the bridge can play.

    control_period: s. base_frame: the frame whose axes the actions refer to. min_rows: rows that
    are played before the next chunk is waited for.
    """

    control_period: float
    base_frame: str
    min_rows: int = 1


@dataclass(frozen=True)
class PlayableChunk:
    """A chunk that passed the checks: actions float64 [C, 7], gripper -1 open, +1 close.

    episode: as vla_node counts. hold: not of the policy, no row moves. received: when it came
    (time.monotonic), NaN if not noted.
    """

    stamp_ns: int
    actions: np.ndarray
    instruction: str
    episode: int
    hold: bool
    received: float = math.nan

    @property
    def stamp(self) -> float:
        """Stamp of the observation in seconds."""
        return self.stamp_ns / NANOSECONDS


def playable_chunk(message, contract: ChunkContract) -> PlayableChunk:
    """Check an ActionChunk message against ``contract`` and convert its gripper column.

    Motion beyond [-1, 1] is left as it is: the simulator saturates it, which is part of the
    meaning of the actions.

    Raises:
        ActionError: names the field that does not fit, what it is and what it must be.
    """
    _check_meaning(message, contract)
    rows, columns = message.horizon, message.dof
    if columns != DOF or rows < 1 or len(message.data) != rows * columns:
        raise ActionError(f"horizon {rows}, dof {columns} and {len(message.data)} values do not "
                          f"fit together; dof must be {DOF} and data hold horizon * dof values")
    if rows < contract.min_rows:
        raise ActionError(f"horizon is {rows}, but {contract.min_rows} rows are played per chunk; "
                          "set replan_steps of the bridge to the chunk length or less")
    actions = check_actions(np.asarray(message.data).reshape(rows, columns), "data")
    if message.gripper_convention == ZERO_CLOSE_ONE_OPEN:
        actions = to_env_actions(actions)
    hold = message.source == HOLD
    if hold and actions[:, :6].any():
        raise ActionError("source is HOLD, but the rows move")
    return PlayableChunk(stamp_to_ns(message.header.stamp), actions, message.instruction,
                         message.episode, hold)


def _check_meaning(message, contract: ChunkContract) -> None:
    if message.action_space != EE_DELTA_POSE:
        raise ActionError(f"action_space is {message.action_space}; the simulator takes "
                          f"EE_DELTA_POSE ({EE_DELTA_POSE})")
    if message.gripper_convention not in (ZERO_CLOSE_ONE_OPEN, MINUS_ONE_OPEN_PLUS_ONE_CLOSE):
        raise ActionError(f"gripper_convention is {message.gripper_convention}; it must be "
                          f"ZERO_CLOSE_ONE_OPEN ({ZERO_CLOSE_ONE_OPEN}) or "
                          f"MINUS_ONE_OPEN_PLUS_ONE_CLOSE ({MINUS_ONE_OPEN_PLUS_ONE_CLOSE})")
    scale = tuple(message.unit_scale)
    if len(scale) != DOF or not np.allclose(scale, UNIT_SCALE, rtol=1e-6, atol=0.0):
        raise ActionError(f"unit_scale is {list(scale)}; a controller unit of the simulator is "
                          f"{list(UNIT_SCALE)}")
    if not np.isclose(message.dt, contract.control_period, rtol=1e-3, atol=0.0):
        raise ActionError(f"dt is {message.dt} s, the control period of the simulator is "
                          f"{contract.control_period} s; set the control period of vla_node to it")
    if message.header.frame_id != contract.base_frame:
        raise ActionError(f"frame_id is {message.header.frame_id!r}; the actions must refer to the "
                          f"axes of {contract.base_frame!r} (base_frame of vla_node)")
