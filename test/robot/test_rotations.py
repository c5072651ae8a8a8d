import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.robot.rotations import (
    TOOL_DOWN_XYZW,
    align_quaternion_sign,
    axis_angle_to_matrix,
    axis_angle_to_quaternion,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
)

component = st.floats(-1, 1, allow_subnormal=False)
quaternions = (
    st.tuples(component, component, component, component)
    .map(np.array)
    .filter(lambda q: np.linalg.norm(q) > 1e-3)
    .map(lambda q: q / np.linalg.norm(q))
)
vectors = st.tuples(*[st.floats(-3.6, 3.6, allow_subnormal=False)] * 3).map(np.array)


def robosuite_quat2axisangle(quat):
    """robosuite 1.4, utils/transform_utils.py."""
    quat = np.array(quat)
    quat[3] = min(1.0, max(-1.0, quat[3]))
    den = np.sqrt(1.0 - quat[3] * quat[3])
    if math.isclose(den, 0.0):
        return np.zeros(3)
    return (quat[:3] * 2.0 * math.acos(quat[3])) / den


@given(quaternions)
def test_matrix_is_a_rotation_and_comes_back_as_the_same_rotation(q):
    m = quaternion_to_matrix(q)
    assert np.allclose(m @ m.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(m) == pytest.approx(1.0)
    back = matrix_to_quaternion(m)
    assert abs(back @ q) == pytest.approx(1.0, abs=1e-12)
    assert np.allclose(quaternion_to_matrix(back), m, atol=1e-12)


@given(vectors)
def test_rotation_vector_of_matrix_is_the_shortest_one(v):
    m = axis_angle_to_matrix(v)
    back = matrix_to_axis_angle(m)
    assert np.linalg.norm(back) <= math.pi + 1e-12
    assert np.allclose(axis_angle_to_matrix(back), m, atol=1e-9)


@given(vectors.filter(lambda v: np.linalg.norm(v) < 2 * math.pi - 1e-3))
def test_rotation_vector_survives_the_quaternion(v):
    assert np.allclose(quaternion_to_axis_angle(axis_angle_to_quaternion(v)), v, atol=1e-9)


@given(vectors, st.tuples(component, component, component).map(np.array))
def test_rotation_vector_turns_points_as_rodrigues_says(v, point):
    angle = np.linalg.norm(v)
    axis = v / angle if angle > 0 else v
    expected = (
        point * math.cos(angle)
        + np.cross(axis, point) * math.sin(angle)
        + axis * (axis @ point) * (1 - math.cos(angle))
    )
    assert np.allclose(axis_angle_to_matrix(v) @ point, expected, atol=1e-12)


@given(quaternions.filter(lambda q: abs(q[3]) < 0.999))
def test_axis_angle_equals_robosuite_for_either_sign(q):
    for signed in (q, -q):
        ours = quaternion_to_axis_angle(signed)
        assert np.allclose(ours, robosuite_quat2axisangle(signed), atol=1e-9)


def test_identity_has_the_zero_vector_and_small_angles_keep_their_digits():
    assert np.array_equal(quaternion_to_axis_angle([0, 0, 0, 1]), np.zeros(3))
    tiny = np.array([3e-9, -4e-9, 0.0])
    assert np.allclose(quaternion_to_axis_angle(axis_angle_to_quaternion(tiny)), tiny, rtol=1e-12)


@given(quaternions, quaternions)
def test_aligned_sign_is_the_same_rotation_on_the_side_of_the_reference(q, reference):
    aligned = align_quaternion_sign(q, reference)
    assert aligned @ reference >= 0
    assert np.allclose(quaternion_to_matrix(aligned), quaternion_to_matrix(q), atol=1e-12)


@given(
    st.tuples(*[st.floats(-0.5, 0.5)] * 3).map(np.array),
    st.tuples(*[st.floats(-0.02, 0.02)] * 3).map(np.array),
)
def test_axis_angle_is_continuous_around_tool_down(tilt, nudge):
    down = quaternion_to_matrix(TOOL_DOWN_XYZW)
    before, after = (
        quaternion_to_axis_angle(
            align_quaternion_sign(matrix_to_quaternion(axis_angle_to_matrix(v) @ down))
        )
        for v in (tilt, tilt + nudge)
    )
    assert np.linalg.norm(after - before) <= 2.0 * np.linalg.norm(nudge) + 1e-9


@pytest.mark.parametrize("beyond", [-0.2, -1e-6, 0.0, 1e-6, 0.2])
def test_angles_beyond_half_a_turn_occur_as_in_liberos_data(beyond):
    q = axis_angle_to_quaternion([math.pi + beyond, 0, 0])
    for signed in (q, -q):
        aligned = align_quaternion_sign(signed)
        assert np.allclose(quaternion_to_axis_angle(aligned), [math.pi + beyond, 0, 0])


@pytest.mark.parametrize("wrong", [[0, 0, 0, 0], [1, 0, 0], [math.nan, 0, 0, 1]])
def test_what_is_no_quaternion_is_refused(wrong):
    with pytest.raises(ValueError, match="not a quaternion"):
        quaternion_to_matrix(wrong)
