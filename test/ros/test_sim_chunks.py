"""Which chunks the bridge plays, and what it makes of their gripper column."""
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
sys.path.append(str(Path(__file__).parent))  # the helper modules beside this file

from builtin_interfaces.msg import Time  # noqa: E402
from sim_bridge_harness import chunk_message  # noqa: E402

from specprune_ros.errors import ActionError  # noqa: E402
from specprune_ros.ros.sim_chunks import ChunkContract, playable_chunk  # noqa: E402

CONTRACT = ChunkContract(control_period=0.05, base_frame="base", min_rows=8)
STAMP = Time(sec=2, nanosec=500)


def test_rows_stamp_and_instruction_are_taken_over():
    data = np.arange(56, dtype=float).reshape(8, 7) / 100.0
    data[:, 6] = 1.0
    chunk = playable_chunk(chunk_message(STAMP, "task", data=data.ravel()), CONTRACT)
    assert chunk.stamp_ns == 2_000_000_500
    assert chunk.instruction == "task"
    np.testing.assert_array_equal(chunk.actions[:, :6], data[:, :6])


@pytest.mark.parametrize(("convention", "sent", "played"), [
    (1, 0.0, 1.0), (1, 1.0, -1.0), (1, 0.2, 1.0), (1, 0.9, -1.0),  # 0 close, 1 open
    (2, 1.0, 1.0), (2, -1.0, -1.0), (2, 0.25, 0.25),  # -1 open, +1 close
])
def test_gripper_is_converted_to_minus_one_open(convention, sent, played):
    data = np.zeros((8, 7))
    data[:, 6] = sent
    message = chunk_message(STAMP, "task", gripper_convention=convention, data=data.ravel())
    np.testing.assert_array_equal(playable_chunk(message, CONTRACT).actions[:, 6], played)


def test_motion_beyond_one_unit_is_no_reason_to_reject():
    data = np.full(56, 3.0)
    chunk = playable_chunk(chunk_message(STAMP, "task", data=data), CONTRACT)
    assert chunk.actions.max() == 3.0


def spoiled(index, value):
    data = np.zeros(56)
    data[index] = value
    return data


@pytest.mark.parametrize(("changes", "named"), [
    ({"data": spoiled(10, np.nan)}, "row 1, column 3"),
    ({"data": spoiled(55, np.inf)}, "row 7, column 6"),
    ({"dof": 6, "data": np.zeros(48)}, "dof"),
    ({"horizon": 0, "data": []}, "horizon 0"),
    ({"horizon": 7}, "56 values"),
    ({"data": np.zeros(55)}, "55 values"),
    ({"horizon": 4, "data": np.zeros(28)}, "replan_steps"),
    ({"action_space": 0}, "action_space"),
    ({"gripper_convention": 0}, "gripper_convention"),
    ({"unit_scale": [1.0] * 7}, "unit_scale"),
    ({"unit_scale": []}, "unit_scale"),
    ({"unit_scale": [np.nan] * 7}, "unit_scale"),
    ({"dt": 0.1}, "dt is 0.1"),
    ({"dt": np.nan}, "dt is nan"),
])
def test_a_chunk_that_does_not_fit_is_refused_by_name(changes, named):
    with pytest.raises(ActionError, match=named):
        playable_chunk(chunk_message(STAMP, "task", **changes), CONTRACT)


def test_actions_in_another_frame_are_refused():
    message = chunk_message(STAMP, "task")
    message.header.frame_id = "tool"
    with pytest.raises(ActionError, match="'tool'.*'base'"):
        playable_chunk(message, CONTRACT)
