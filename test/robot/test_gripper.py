from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.errors import ActionError
from specprune_ros.robot.gripper import (
    CLOSE,
    OPEN,
    env_to_rlds_gripper,
    rlds_to_env_gripper,
    to_env_actions,
)

# Actions of the reference implementation before and after its two gripper functions.
GOLDEN = Path(__file__).parents[1] / "data" / "gripper_golden.npz"


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_equals_the_reference(case):
    with np.load(GOLDEN) as golden:
        converted = to_env_actions(golden[f"{case}_actions"])
        assert np.array_equal(converted, golden[f"{case}_env_actions"])
        assert {OPEN, CLOSE} >= set(converted[:, 6])


@given(st.floats(-0.2, 1.2))
def test_more_open_than_shut_opens_and_the_middle_does_neither(g):
    assert rlds_to_env_gripper(g) == (OPEN if g > 0.5 else CLOSE if g < 0.5 else 0.0)


def test_the_middle_is_a_plain_zero():
    assert not np.signbit(rlds_to_env_gripper(0.5))


@pytest.mark.parametrize("command", [OPEN, CLOSE])
def test_environment_commands_survive_the_data_set(command):
    assert rlds_to_env_gripper(env_to_rlds_gripper(command)) == command


def test_input_is_left_alone():
    actions = np.full((8, 7), 0.9)
    to_env_actions(actions)
    assert (actions == 0.9).all()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(7), r"shape \(7,\), expected \[C, 7\]"),
        (np.zeros((8, 6)), r"shape \(8, 6\)"),
        (np.zeros((0, 7)), r"shape \(0, 7\)"),
        (np.where(np.arange(14).reshape(2, 7) == 9, np.nan, 0.0), "row 1, column 2 is nan"),
        (np.where(np.arange(14).reshape(2, 7) == 0, -np.inf, 0.0), "row 0, column 0 is -inf"),
    ],
)
def test_bad_chunks_are_named(actions, message):
    with pytest.raises(ActionError, match=message):
        to_env_actions(actions)
