"""Quaternions (xyzw, as ROS orders them), rotation matrices and rotation vectors (axis-angle).

The rotation vector of LIBERO's proprio is robosuite's ``quat2axisangle``: the quaternion is taken
with the sign it has, so angles run from 0 to 2 pi and the vector jumps where the sign flips. A
tool that points down is half a turn about x: there the scalar part is near 0 and its sign is
noise. :func:`align_quaternion_sign` fixes the sign against a reference instead, which keeps the
vector continuous around (pi, 0, 0), with angles a little above pi where LIBERO's data has them.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

TOOL_DOWN_XYZW = (1.0, 0.0, 0.0, 0.0)  # half a turn about x: z of the tool points down


def _unit_quaternion(quaternion_xyzw: Sequence[float]) -> np.ndarray:
    quaternion = np.array(quaternion_xyzw, dtype=np.float64)
    norm = float(np.linalg.norm(quaternion))
    if quaternion.shape != (4,) or not math.isfinite(norm) or norm < 1e-9:
        raise ValueError(f"not a quaternion (x, y, z, w): {quaternion_xyzw!r}")
    return quaternion / norm


def align_quaternion_sign(
    quaternion_xyzw: Sequence[float], reference_xyzw: Sequence[float] = TOOL_DOWN_XYZW
) -> np.ndarray:
    """Of the two quaternions of a rotation, the one whose dot product with the reference is >= 0.

    Returns a unit quaternion [4], xyzw.
    """
    quaternion = _unit_quaternion(quaternion_xyzw)
    return -quaternion if float(quaternion @ _unit_quaternion(reference_xyzw)) < 0 else quaternion


def quaternion_to_axis_angle(quaternion_xyzw: Sequence[float]) -> np.ndarray:
    """Rotation vector [3] in radians of a quaternion, sign as given: norms from 0 to 2 pi.

    Equals robosuite 1.4's ``quat2axisangle``; atan2 instead of acos keeps small angles exact.
    """
    quaternion = _unit_quaternion(quaternion_xyzw)
    sine = float(np.linalg.norm(quaternion[:3]))  # of half the angle
    if sine == 0.0:
        return np.zeros(3)
    return quaternion[:3] * (2.0 * math.atan2(sine, float(quaternion[3])) / sine)


def axis_angle_to_quaternion(axis_angle: Sequence[float]) -> np.ndarray:
    """Unit quaternion [4] (xyzw) of a rotation vector [3] in radians."""
    vector = np.asarray(axis_angle, dtype=np.float64)
    half = 0.5 * float(np.linalg.norm(vector))
    # sin(half) / (2 half), whose limit at 0 is 1/2
    scale = 0.5 * (1.0 - half * half / 6.0) if half < 1e-6 else 0.5 * math.sin(half) / half
    return np.array([*(vector * scale), math.cos(half)])


def quaternion_to_matrix(quaternion_xyzw: Sequence[float]) -> np.ndarray:
    """Rotation matrix [3, 3] of a quaternion."""
    x, y, z, w = _unit_quaternion(quaternion_xyzw).tolist()
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])


def matrix_to_quaternion(matrix: np.ndarray) -> np.ndarray:
    """Unit quaternion [4] (xyzw) of a rotation matrix [3, 3]; its largest component is positive.

    The branch with the largest component is taken (Shepperd), so no small number is divided by.
    """
    m = np.asarray(matrix, dtype=np.float64)
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    # four times the square of each component
    squares = np.array([*(1.0 + 2.0 * np.diag(m) - trace), 1.0 + trace])
    largest = int(np.argmax(squares))
    products = np.array([  # four times q_i q_j
        [squares[0], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
        [m[0, 1] + m[1, 0], squares[1], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
        [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], squares[2], m[1, 0] - m[0, 1]],
        [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], squares[3]],
    ])
    quaternion = products[largest]
    return quaternion / np.linalg.norm(quaternion)


def axis_angle_to_matrix(axis_angle: Sequence[float]) -> np.ndarray:
    """Rotation matrix [3, 3] of a rotation vector [3] in radians."""
    return quaternion_to_matrix(axis_angle_to_quaternion(axis_angle))


def matrix_to_axis_angle(matrix: np.ndarray) -> np.ndarray:
    """Shortest rotation vector [3] (norm at most pi) of a rotation matrix [3, 3]."""
    quaternion = matrix_to_quaternion(matrix)
    return quaternion_to_axis_angle(-quaternion if quaternion[3] < 0 else quaternion)
