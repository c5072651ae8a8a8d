import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import TWO_ARMS

from specprune_ros.errors import ConfigurationError, JointStateError
from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.robot.velocity import TwistEstimator

NAMES = ["finger", "left2", "left1"]  # not the order of the chain


def make(time_constant_s=0.05):
    return TwistEstimator(ArmKinematics.from_urdf(TWO_ARMS, "torso", "left_tool"), time_constant_s)


def state(left1, left2=0.0, finger=0.0):
    return [finger, left2, left1]


intervals = st.lists(st.floats(0.001, 0.2), min_size=2, max_size=15)


@given(intervals, st.floats(-1.5, 1.5))
def test_constant_speed_is_found_whatever_the_stamps(gaps, rate):
    for velocities in (None, [0.0, 0.0, rate]):
        estimator, stamp, sample = make(), 100.0, None
        for gap in gaps:
            stamp += gap
            positions = state(rate * (stamp - 100.0))
            sample = estimator.update(stamp, NAMES, positions, velocities)
        assert sample.raw_twist[5] == pytest.approx(rate, abs=1e-9)
        assert sample.twist[5] == pytest.approx(rate, abs=1e-9)
        speed = np.linalg.norm(sample.twist[:2])
        assert speed <= 2 * abs(rate) + 1e-9


@given(intervals, st.floats(0.01, 0.5))
def test_filter_depends_on_the_time_passed_not_on_the_number_of_samples(gaps, constant):
    estimator = make(constant)
    estimator.update(0.0, NAMES, state(0.0), [0.0] * 3)
    stamp = 0.0
    for gap in gaps:
        stamp += gap
        sample = estimator.update(stamp, NAMES, state(0.0), [0.0, 0.0, 1.0])
    assert sample.twist[5] == pytest.approx(1 - math.exp(-stamp / constant), abs=1e-9)
    assert sample.raw_twist[5] == pytest.approx(1.0)


def test_time_constant_zero_switches_the_filter_off():
    estimator = make(0.0)
    estimator.update(0.0, NAMES, state(0.0), [0.0] * 3)
    assert estimator.update(0.001, NAMES, state(0.0), [0, 0, 1.0]).twist[5] == pytest.approx(1.0)


def test_first_sample_knows_the_speed_only_if_it_was_measured():
    assert make().update(0.0, NAMES, state(0.3), [0, 0, 0.5]).twist[5] == pytest.approx(0.5)
    sample = make().update(0.0, NAMES, state(0.3), [])
    assert sample.twist is None and sample.raw_twist is None
    assert sample.pose.position[0] == pytest.approx(2 * math.cos(0.3))


def test_positions_of_all_joints_are_kept_by_name():
    sample = make().update(2.5, NAMES, [0.01, 0.02, 0.03])
    assert sample.positions == {"finger": 0.01, "left2": 0.02, "left1": 0.03}
    assert sample.stamp == 2.5


def test_difference_goes_the_short_way_round_a_continuous_joint():
    estimator = make()
    estimator.update(0.0, NAMES, state(0.0, left2=math.pi - 0.01))
    sample = estimator.update(0.1, NAMES, state(0.0, left2=-math.pi + 0.01))
    assert sample.raw_twist[5] == pytest.approx(0.2)


def test_duplicate_stamp_changes_nothing():
    estimator = make()
    estimator.update(0.0, NAMES, state(0.0), [0, 0, 0.0])
    first = estimator.update(0.1, NAMES, state(0.1), [0, 0, 1.0])
    again = estimator.update(0.1, NAMES, state(0.1), [0, 0, 1.0])
    assert np.array_equal(first.twist, again.twist)
    moved = estimator.update(0.1, NAMES, state(0.5))  # no division by the interval of zero
    assert np.array_equal(first.twist, moved.twist)


def test_time_going_back_is_reported_once_and_starts_a_new_stream():
    estimator = make()
    estimator.update(5.0, NAMES, state(0.0), [0, 0, 1.0])
    with pytest.raises(JointStateError, match="went back by 4.000000 s"):
        estimator.update(1.0, NAMES, state(2.0))
    sample = estimator.update(1.1, NAMES, state(2.1))
    assert sample.twist is None  # nothing of the old stream is left
    assert estimator.update(1.2, NAMES, state(2.2)).twist[5] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("stamp", "names", "positions", "velocities", "message"),
    [
        (0.1, NAMES, [0, math.nan, 0], None, "position is not finite: left2 = nan"),
        (0.1, NAMES, [0, 0, math.inf], None, "position is not finite: left1 = inf"),
        (0.1, NAMES, [0, 0, 0], [0, 0, math.nan], "velocity is not finite: left1"),
        (0.1, NAMES, [0, 0], None, "3 names and 2 position values"),
        (0.1, NAMES, [0, 0, 0], [0, 0], "3 names and 2 velocity values"),
        (0.1, ["left1"], [0], None, "lack the position of left2"),
        (0.1, ["left1", "left2", "left1"], [0, 0, 0], None, "a joint twice: left1"),
        (math.nan, NAMES, [0, 0, 0], None, "stamp of the joint states is nan"),
    ],
)
def test_bad_joint_states_are_named_and_leave_the_filter_alone(
    stamp, names, positions, velocities, message
):
    estimator, untouched = make(), make()
    for each in (estimator, untouched):
        each.update(0.0, NAMES, state(0.0), [0, 0, 0.0])
    with pytest.raises(JointStateError, match=message):
        estimator.update(stamp, names, positions, velocities)
    good = (0.2, NAMES, state(0.1), [0, 0, 1.0])
    assert np.array_equal(estimator.update(*good).twist, untouched.update(*good).twist)


@pytest.mark.parametrize("constant", [-0.1, math.nan, math.inf])
def test_time_constant_is_checked(constant):
    with pytest.raises(ConfigurationError, match="time_constant_s"):
        make(constant)
