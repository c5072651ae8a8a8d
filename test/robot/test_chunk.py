import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.errors import ActionError, ConfigurationError
from specprune_ros.robot.chunk import Blending, ChunkPlayer

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


# --- blending ----------------------------------------------------------------------------------

def test_ensemble_is_acts_weighting_of_the_rows_for_the_same_time():
    player = ChunkPlayer(DT, blending=Blending(ensemble=0.5))
    for k in range(3):  # chunks at 0, 1 and 2 periods; their rows count 0, 1, 2 ...
        player.load(chunk(8, first=100 * k, gripper=[-1.0] * 8 if k < 2 else [1.0] * 8), k * DT)
    row = player.row_at(2 * DT)
    weights = np.exp(-0.5 * np.arange(3))  # the oldest first
    assert row[0] == pytest.approx(weights @ [2, 101, 200] / weights.sum())
    assert row[6] == 1.0  # the newest one decides
    # At 8 periods the oldest chunk is over.
    assert player.row_at(8 * DT)[0] == pytest.approx(weights[:2] @ [107, 206] / weights[:2].sum())


def test_new_chunk_is_faded_in():
    player = ChunkPlayer(DT, blending=Blending(fade=3))
    player.load(chunk(8), 0.0)
    assert player.row_at(0.0)[0] == 0.0  # from standing still
    assert player.row_at(DT)[0] == pytest.approx(1 * 2 / 4)
    player.load(chunk(8, first=100), 4 * DT)
    faded = [player.row_at(k * DT)[0] for k in range(5, 10)]
    old, new, shares = [5, 6, 7], [101, 102, 103], [1 / 4, 2 / 4, 3 / 4]
    assert faded[:3] == pytest.approx([s * n + (1 - s) * o for s, n, o in zip(shares, new, old)])
    assert faded[3:] == [104, 105]


@pytest.mark.parametrize("blending", [Blending(ensemble=0.01), Blending(fade=4)])
def test_what_came_before_a_hold_is_not_blended_into_it(blending):
    player = ChunkPlayer(DT, blending=blending)
    player.load(chunk(8, first=5), 0.0)
    player.row_at(0.0)
    player.load(np.zeros((8, 7)), DT, alone=True)
    assert player.row_at(DT).tolist() == [0.0] * 7


@given(
    ensemble=st.none() | st.floats(0, 5), fade=st.integers(0, 10),
    stamps=st.lists(st.integers(0, 12), min_size=1, max_size=10, unique=True).map(sorted),
    seed=st.integers(0, 2**32 - 1), period=st.integers(0, 25), part=st.floats(0.01, 0.99),
)
def test_blended_motion_lies_between_the_rows_it_is_made_of(
        ensemble, fade, stamps, seed, period, part):
    blending = Blending(ensemble) if ensemble is not None else Blending(fade=fade)
    player, rng = ChunkPlayer(DT, blending=blending), np.random.default_rng(seed)
    for stamp in stamps:
        player.load(rng.uniform(-1, 1, (8, 7)), stamp * DT)
        row = player.row_at((stamp + rng.integers(8) + part) * DT)
        assert np.abs(row).max() <= 1.0
    row = player.row_at((period + part) * DT)
    # Blending never makes motion where the newest chunk has no row.
    assert (row is None) == (not 0 <= period - stamps[-1] < 8)
    assert row is None or np.abs(row).max() <= 1.0


@pytest.mark.parametrize("wrong", [{"ensemble": -1.0}, {"ensemble": math.nan}, {"fade": -1},
                                   {"ensemble": 0.1, "fade": 2}])
def test_blending_that_makes_no_sense(wrong):
    with pytest.raises(ConfigurationError):
        Blending(**wrong)
