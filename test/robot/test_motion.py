"""The motion player: no motion is repeated, skipped by jitter, or made from what is too old."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.errors import ActionError
from specprune_ros.robot.chunk import Blending
from specprune_ros.robot.motion import NEUTRAL_GRIPPER, MotionPlayer

DT = 0.05
SCALE = np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5])


def chunk(rng=None, rows=8, **columns):
    actions = np.zeros((rows, 7)) if rng is None else rng.uniform(-1, 1, (rows, 7))
    actions[:, 6] = 1.0
    for name, value in columns.items():
        actions[:, ("x", "y", "z", "rx", "ry", "rz", "gripper").index(name)] = value
    return actions


def test_rows_are_scaled_to_metres_and_radians():
    player = MotionPlayer(DT)
    assert player.load(chunk(x=0.5, rz=-1.0, gripper=0.0), SCALE, 1.0)
    motion = player.motion(1.0)
    np.testing.assert_allclose(motion.step, [0.025, 0, 0, 0, 0, -0.5])
    assert (motion.gripper, motion.duration, motion.holds) == (0.0, DT, False)


def test_between_two_rows_there_is_a_part_of_each():
    player = MotionPlayer(DT)
    player.load(chunk(x=[0, 1, 0, 0, 0, 0, 0, 0]), SCALE, 0.0)
    assert player.motion(0.3 * DT).step[0] == pytest.approx(0.3 * 0.05)
    assert player.motion(1.3 * DT).step[0] == pytest.approx(0.7 * 0.05)


def test_nothing_moves_before_the_first_and_after_the_last_row():
    player = MotionPlayer(DT)
    before = player.motion(0.0)
    assert before.holds and before.gripper == NEUTRAL_GRIPPER and not before.step.any()
    player.load(chunk(x=1, gripper=0.0), SCALE, 1.0)
    moved = [player.motion(0.8 + k * DT) for k in range(20)]
    assert sum(m.step[0] for m in moved) == pytest.approx(8 * 0.05)
    assert [m.holds for m in moved] == [True] * 4 + [False] * 8 + [True] * 8
    assert moved[-1].gripper == 0.0


def test_hold_ends_the_motion_at_once_and_keeps_its_gripper():
    player = MotionPlayer(DT, Blending(fade=5))
    player.load(chunk(x=1), SCALE, 0.0)
    player.motion(0.0)
    player.load(chunk(gripper=1.0), SCALE, 1.2 * DT, hold=True)
    assert not player.motion(1.5 * DT).step.any()


def test_chunk_that_is_older_than_a_hold_is_ignored():
    player = MotionPlayer(DT)
    player.load(chunk(), SCALE, 1.0, hold=True)
    assert not player.load(chunk(x=1), SCALE, 0.9)
    assert not player.motion(1.0).step.any()


def test_clock_that_is_set_back_forgets_everything():
    player = MotionPlayer(DT)
    player.load(chunk(x=1), SCALE, 10.0)
    player.motion(10.0)
    assert player.motion(1.0).holds
    assert player.load(chunk(x=1), SCALE, 1.0)


@pytest.mark.parametrize("scale", [np.ones(5), np.full(6, np.nan), np.full(6, np.inf)])
def test_scale_that_makes_no_sense(scale):
    with pytest.raises(ActionError, match="unit_scale"):
        MotionPlayer(DT).load(chunk(), scale, 0.0)


JITTER = st.lists(st.floats(-0.2, 0.2), min_size=14, max_size=14)


@given(JITTER, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_jitter_of_the_timer_neither_repeats_nor_skips_motion(jitter, phase, seed):
    rng = np.random.default_rng(seed)
    actions = chunk(rng)
    player = MotionPlayer(DT)
    player.load(actions, SCALE, 0.0)
    total = sum(player.motion((k + phase + offset - 2) * DT).step
                for k, offset in enumerate(jitter))
    np.testing.assert_allclose(total, (actions[:, :6] * SCALE).sum(axis=0), atol=1e-9)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    pauses=st.lists(st.floats(0, 3) | st.sampled_from([0.0, 1.0, 30.0, -5.0]), min_size=1,
                    max_size=40),
    ensemble=st.none() | st.floats(0, 1), fade=st.integers(0, 4),
)
def test_whatever_comes_when_no_step_is_larger_than_the_rows_allow(seed, pauses, ensemble, fade):
    """Chunks late, early, in any order; ticks in bursts and after pauses; time set back."""
    rng = np.random.default_rng(seed)
    player = MotionPlayer(DT, Blending(ensemble) if ensemble is not None else Blending(fade=fade))
    now, covered_until = 100 * DT, -np.inf
    for pause in pauses:
        now += pause * DT
        if pause < 0:
            covered_until = -np.inf
        if rng.random() < 0.5:
            stamp, hold = now + rng.uniform(-12, 2) * DT, rng.random() < 0.2
            actions = chunk(rng) if not hold else chunk()
            if player.load(actions, SCALE, stamp, hold):
                covered_until = stamp + 8 * DT
        motion = player.motion(now)
        assert np.isfinite(motion.step).all()
        assert (np.abs(motion.step) <= 1.5 * SCALE + 1e-12).all()
        if now > covered_until + DT:
            assert motion.holds and not motion.step.any()
