"""Gripper conventions: what the checkpoint was trained on against what the environment takes.

The published LIBERO data (RLDS) has 0 = close, 1 = open; LIBERO's environments take -1 = open,
+1 = close. The conversion is that of OpenVLA-OFT (``experiments/robot/robot_utils.py``:
``normalize_gripper_action(binarize=True)``, then ``invert_gripper_action``).
"""
from __future__ import annotations

import numpy as np

from ..errors import ActionError

OPEN, CLOSE = -1.0, 1.0  # environment convention


def rlds_to_env_gripper(gripper: np.ndarray | float) -> np.ndarray:
    """Gripper commands, any shape, 0 close .. 1 open -> -1 open, +1 close, 0 for exactly 0.5."""
    return -np.sign(2.0 * np.asarray(gripper, dtype=np.float64) - 1.0) + 0.0  # no -0.0


def env_to_rlds_gripper(gripper: np.ndarray | float) -> np.ndarray:
    """Gripper commands, any shape, -1 open .. +1 close -> 1 open .. 0 close (not binarised)."""
    return (1.0 - np.asarray(gripper, dtype=np.float64)) / 2.0


def check_actions(actions: np.ndarray, what: str = "actions") -> np.ndarray:
    """A chunk [C, 7] as float64.

    Raises ActionError, naming ``what``, if the shape is another or a value is not finite.
    """
    array = np.asarray(actions, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != 7:
        raise ActionError(
            f"{what}: shape {array.shape}, expected [C, 7] with C >= 1 "
            "(three translations, three rotations, gripper)"
        )
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise ActionError(f"{what}: value at row {row}, column {column} is {array[row, column]}")
    return array


def to_env_actions(actions: np.ndarray) -> np.ndarray:
    """A chunk [C, 7] with the data set's gripper -> [C, 7] with the environment's.

    The six motion columns are copied. Raises ActionError for another shape or a NaN.
    """
    converted = check_actions(actions).copy()
    converted[:, 6] = rlds_to_env_gripper(converted[:, 6])
    return converted
