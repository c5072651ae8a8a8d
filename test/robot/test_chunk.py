import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.errors import ActionError, ConfigurationError
from specprune_ros.robot.chunk import ChunkPlayer

DT = 0.05


def chunk(rows, gripper=1.0, first=0):
    """Rows that carry their number in the first column."""
    actions = np.zeros((rows, 7))
    actions[:, 0] = np.arange(first, first + rows)
    actions[:, 6] = gripper
    return actions


def test_nothing_to_play_before_the_first_chunk_but_a_hold_with_open_gripper():
    player = ChunkPlayer(DT)
    assert player.next_row() is None and player.row_at(0.0) is None
    assert player.stamp is None and player.rows_left == 0
    assert np.array_equal(player.hold_action(), [0, 0, 0, 0, 0, 0, -1])


@given(st.integers(1, 20))
def test_lockstep_plays_every_row_once_then_holds(rows):
    player = ChunkPlayer(DT)
    player.load(chunk(rows), stamp=1.0, dt=DT)
    played = [player.next_row()[0] for _ in range(rows)]
    assert played == list(range(rows))
    assert player.next_row() is None and player.rows_left == 0


def test_lockstep_starts_over_with_a_newer_chunk():
    player = ChunkPlayer(DT)
    player.load(chunk(8), stamp=0.0)
    for _ in range(5):
        player.next_row()
    assert player.rows_left == 3
    assert player.load(chunk(8, first=100), stamp=0.25)
    assert player.next_row()[0] == 100


@given(
    stamp=st.floats(0, 1e6),
    periods=st.integers(0, 30),
    early=st.floats(0, 0.0009),
    late=st.floats(0, 0.99),
)
def test_by_stamp_the_row_is_the_period_that_the_time_lies_in(stamp, periods, early, late):
    player = ChunkPlayer(DT)
    player.load(chunk(8), stamp)
    for offset in (-early, late):
        row = player.row_at(stamp + (periods + offset) * DT)
        if periods >= 8:
            assert row is None
        else:
            assert row[0] == periods


@given(st.lists(st.floats(0, 0.6), min_size=1, max_size=20).map(sorted))
def test_by_stamp_rows_never_go_back_and_late_ones_are_skipped(times):
    player = ChunkPlayer(DT)
    player.load(chunk(8), 0.0)
    rows = [player.row_at(t) for t in times]
    played = [row[0] for row in rows if row is not None]
    assert played == sorted(played)
    # once exhausted it stays so
    assert all(later is None for row, later in zip(rows, rows[1:]) if row is None)


def test_a_chunk_from_the_future_waits():
    player = ChunkPlayer(DT)
    player.load(chunk(8), stamp=10.0)
    assert player.row_at(9.9) is None
    assert player.row_at(10.0)[0] == 0


@pytest.mark.parametrize("stamp", [1.0, 0.5])
def test_a_chunk_that_is_not_newer_is_ignored(stamp):
    player = ChunkPlayer(DT)
    player.load(chunk(8), stamp=1.0)
    player.next_row()
    assert not player.load(chunk(8, first=100), stamp=stamp)
    assert player.next_row()[0] == 1


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=8), st.integers(1, 8))
def test_hold_repeats_the_gripper_command_played_last(commands, count):
    player = ChunkPlayer(DT)
    player.load(chunk(len(commands), gripper=commands), 0.0)
    for _ in range(count):
        player.next_row()
    expected = commands[min(count, len(commands)) - 1]
    assert np.array_equal(player.hold_action(), [0, 0, 0, 0, 0, 0, expected])


def test_reset_forgets_chunk_stamp_and_gripper():
    player = ChunkPlayer(DT)
    player.load(chunk(8, gripper=1.0), stamp=5.0)
    player.next_row()
    player.reset()
    assert player.next_row() is None and player.hold_action()[6] == -1
    assert player.load(chunk(8), stamp=0.0)


def test_rows_are_copies():
    player, actions = ChunkPlayer(DT), chunk(8)
    player.load(actions, 0.0)
    actions[:] = 7.0
    player.row_at(0.0)[:] = 9.0
    assert player.next_row() is not None
    assert player.row_at(0.0)[0] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((8, 6)), 0.0), "expected .C, 7."),
        ((np.full((8, 7), math.nan), 0.0), "row 0, column 0 is nan"),
        ((np.zeros((8, 7)), math.nan), "stamp is nan"),
        ((np.zeros((8, 7)), 0.0, 0.1), "dt is 0.1 s, the control period here is 0.05 s"),
    ],
)
def test_bad_chunks_are_refused_and_the_good_one_stays(arguments, message):
    player = ChunkPlayer(DT)
    player.load(chunk(8), -1.0)
    with pytest.raises(ActionError, match=message):
        player.load(*arguments)
    assert player.next_row()[0] == 0


@pytest.mark.parametrize("period", [0.0, -1.0, math.nan, math.inf])
def test_control_period_must_be_positive(period):
    with pytest.raises(ConfigurationError, match="control_period"):
        ChunkPlayer(period)
