import math

import numpy as np
import pytest

from specprune_ros.errors import ConfigurationError, JointStateError
from specprune_ros.robot.kinematics import Pose
from specprune_ros.robot.proprio import ProprioSpec, proprio_vector

DOWN = Pose(np.array([0.4, 0.1, 0.2]), np.array([-1.0, 0.0, 0.0, 1e-4]))
FINGERS = {"panda_finger_joint1": 0.03, "panda_finger_joint2": 0.02, "other": math.nan}


def test_liberos_layout_and_signs():
    vector = proprio_vector(DOWN, FINGERS, ProprioSpec())
    assert vector.dtype == np.float64 and vector.shape == (8,)
    assert np.allclose(vector, [0.4, 0.1, 0.2, math.pi + 2e-4, 0, 0, 0.03, -0.02], atol=1e-7)


def test_scale_offset_and_order_of_the_gripper_joints():
    spec = ProprioSpec(("b", "a", "c"), (2.0, 1.0, -1.0), (0.5, 0.0, 0.0))
    assert spec.size == 9
    vector = proprio_vector(DOWN, {"a": 1.0, "b": 2.0, "c": 3.0}, spec)
    assert np.allclose(vector[6:], [4.5, 1.0, -3.0])


def test_another_reference_gives_the_other_sign():
    spec = ProprioSpec(orientation_reference_xyzw=(0.0, 0.0, 0.0, 1.0))
    assert proprio_vector(DOWN, FINGERS, spec)[3] == pytest.approx(-math.pi + 2e-4, abs=1e-7)


def test_gripper_joints_must_be_there_and_finite():
    with pytest.raises(JointStateError, match="lack the gripper joints panda_finger_joint2"):
        proprio_vector(DOWN, {"panda_finger_joint1": 0.0}, ProprioSpec())
    with pytest.raises(JointStateError, match="is not finite"):
        proprio_vector(DOWN, FINGERS | {"panda_finger_joint1": math.nan}, ProprioSpec())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gripper_scale": (1.0,)}, "they have 2, 1 and 2"),
        ({"gripper_offset": (math.nan, 0.0)}, "must be finite"),
        ({"orientation_reference_xyzw": (0.0, 0.0, 0.0, 0.0)}, "must be a quaternion"),
        ({"orientation_reference_xyzw": (1.0, 0.0, 0.0)}, "must be a quaternion"),
    ],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        ProprioSpec(**arguments)
