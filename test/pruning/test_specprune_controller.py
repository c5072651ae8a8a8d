"""The action-aware controller: rules, waiting times, sources of motion, replanning."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.errors import ActionError, ConfigurationError, ObservationError
from specprune_ros.pruning.config import Budget, CameraBudgets, ControllerConfig, SpecPruneConfig
from specprune_ros.pruning.controller import (
    ControllerState,
    Speeds,
    low_pass,
    speeds_of_twist,
    twist_of_action,
    update,
)
from specprune_ros.pruning.episode import EpisodeState
from specprune_ros.pruning.frames import Frame, FrameRing
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.types import Mode

PERIOD = 0.05
COARSE, FINE = Mode.COARSE, Mode.FINE
TINY = 1e-9


def speeds(translation=0.0, rotation=0.0, vertical=0.0, horizontal=None) -> Speeds:
    horizontal = translation if horizontal is None else horizontal
    return Speeds(translation, rotation, horizontal, vertical)


def judge(config: ControllerConfig, mode: Mode, now: Speeds, **more) -> Mode:
    """The mode after one judgement, all waiting times over."""
    state = ControllerState(mode, since=-100.0, start=-100.0)
    return update(state, config, now, 0.0, **more).mode


# Rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["specprune", "paper_v1", "paper_icml"])
def test_the_and_rule_at_its_boundaries(name):
    """Invariant 16: entry needs all three, strictly below for the speeds and <= for the rise; exit
    takes one, strictly above."""
    config = preset(name).controller
    v, w, z = config.enter_translation, config.enter_rotation, config.enter_vertical
    below = speeds(v - TINY, w - TINY, z)
    assert judge(config, COARSE, below) is FINE
    for one in ({"translation": v}, {"rotation": w}, {"vertical": z + TINY}):
        assert judge(config, COARSE, replace(below, **one)) is COARSE
    v, w = config.exit_translation, config.exit_rotation
    at = speeds(v, w, 9.0)
    assert judge(config, FINE, at) is FINE  # not above, and no exit by rising alone
    assert judge(config, FINE, replace(at, translation=v + TINY)) is COARSE
    assert judge(config, FINE, replace(at, rotation=w + TINY)) is COARSE


def test_the_sign_of_the_vertical_motion():
    """Invariant 16: descending slowly is precise work, rising (a lift) is not; for the paper the
    boundary is 0."""
    config = preset("paper_v1").controller
    assert config.enter_vertical == 0.0
    assert judge(config, COARSE, speeds(0.05, 0.0, -0.05)) is FINE
    assert judge(config, COARSE, speeds(0.0, 0.0, 0.0)) is FINE
    assert judge(config, COARSE, speeds(0.05, 0.0, 1e-6)) is COARSE


def test_the_released_rule_at_its_boundaries():
    """Invariant 16: v_t < 0.35 or (v_xy < 0.1 and dz < 0.1 and v_r < 0.2) in controller units; out
    by dz > 0.2 or v_r > 0.3 at the end of a chunk."""
    config = preset("release").controller
    fast = speeds(0.35, 9.0, -9.0, horizontal=0.1)
    assert judge(config, COARSE, fast) is COARSE
    assert judge(config, COARSE, replace(fast, translation=0.35 - TINY)) is FINE
    vertical = speeds(9.0, 2.0 - TINY, 0.1 - TINY, horizontal=0.1 - TINY)
    assert judge(config, COARSE, vertical) is FINE
    for one in ({"rotation": 2.0}, {"vertical": 0.1}, {"horizontal": 0.1}):
        assert judge(config, COARSE, replace(vertical, **one)) is COARSE
    at = speeds(9.0, 3.0, 0.2)
    assert judge(config, FINE, at) is FINE
    for one in ({"rotation": 3.0 + TINY}, {"vertical": 0.2 + TINY}):
        assert judge(config, FINE, replace(at, **one)) is COARSE
        assert judge(config, FINE, replace(at, **one), chunk_end=False) is FINE


def test_units():
    """A controller unit per 20 Hz period is 1 m/s and 10 rad/s."""
    twist = twist_of_action(np.array([1, 0, 0, 0, 1, 0, 0.5]), PERIOD)
    assert twist.tolist() == pytest.approx([1, 0, 0, 0, 10, 0])
    found = speeds_of_twist(np.array([0.3, 0.4, -1.2, 0, 3, 4]))
    assert (found.translation, found.rotation) == pytest.approx((1.3, 5.0))
    assert (found.horizontal, found.vertical) == pytest.approx((0.5, -1.2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_rejected(bad):
    """Invariant 16: NaN actions and twists are errors and never a mode."""
    with pytest.raises(ObservationError, match="ee_twist"):
        speeds_of_twist(np.array([0, 0, bad, 0, 0, 0]))
    with pytest.raises(ActionError, match="non-finite"):
        twist_of_action(np.array([0, bad, 0, 0, 0, 0, 1]), PERIOD)
    with pytest.raises(ObservationError, match="not finite"):
        update(ControllerState(), ControllerConfig(), speeds(bad), 0.0)
    with pytest.raises(ObservationError, match="shape"):
        speeds_of_twist(np.zeros(3))
    with pytest.raises(ActionError, match="shape"):
        twist_of_action(np.zeros(5), PERIOD)


def test_disabled_stays_coarse():
    config = ControllerConfig(enabled=False)
    state = update(ControllerState(), config, speeds(), 1.0)
    assert state.mode is COARSE and state.speeds.known
    assert update(replace(state, mode=FINE), config, speeds(), 2.0).mode is COARSE


# Waiting -----------------------------------------------------------------------------------


def changes(config: ControllerConfig, course: list[Speeds], period=PERIOD) -> list[float]:
    """Stamps at which the mode changed."""
    state, stamps = ControllerState(), []
    for k, now in enumerate(course):
        before, state = state, update(state, config, now, k * period)
        if state.mode is not before.mode:
            stamps.append(k * period)
    return stamps


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.floats(0.0, 0.5), rate=st.sampled_from([10, 20, 200]))
def test_dwell_and_hysteresis_prevent_chatter_on_a_noisy_ramp(seed, noise, rate):
    """Invariant 17: changes are at least min_dwell apart, however noisy the speeds are."""
    config = preset("specprune").controller
    random = np.random.default_rng(seed)
    ramp = np.concatenate([np.linspace(0.3, 0, 2 * rate), np.linspace(0, 0.3, 2 * rate)])
    course = [speeds(abs(v + noise * random.standard_normal())) for v in ramp]
    stamps = changes(config, course, 1 / rate)
    assert all(b - a >= config.min_dwell - 1e-6 for a, b in zip(stamps, stamps[1:]))
    assert len(stamps) <= 4 / config.min_dwell + 1


def test_noise_within_the_hysteresis_band_changes_nothing():
    """Invariant 17: one ramp down and up with small noise gives one fine phase, with dwell or
    without; a single threshold chatters."""
    random = np.random.default_rng(3)
    ramp = np.concatenate([np.linspace(0.3, 0, 200), np.linspace(0, 0.3, 200)])
    course = [speeds(abs(v + 0.006 * random.standard_normal())) for v in ramp]
    config = replace(preset("specprune").controller, min_dwell=0.0)
    assert len(changes(config, course)) == 2
    assert len(changes(preset("paper_v1").controller, course)) > 4


def test_a_mode_lasts_its_dwell_exactly():
    """Invariant 17: up is up, also where floating point says 0.19999999999999998 s."""
    config = ControllerConfig(min_dwell=0.2, exit_translation=0.1)
    fast, slow = speeds(1.0), speeds(0.0)
    state = update(ControllerState(), config, slow, 0.1)
    assert state.mode is FINE  # the initial mode has no dwell
    for stamp in (0.15, 0.2, 0.25):
        state = update(state, config, fast, stamp)
        assert state.mode is FINE
    state = update(state, config, fast, 0.3)
    assert state.mode is COARSE and state.since == 0.3


def test_warm_up_of_the_release():
    """Invariant 16: no decision in the first ten steps."""
    config = preset("release").controller
    assert changes(config, [speeds(0.0)] * 30)[0] == pytest.approx(10 * PERIOD)


def test_time_set_back_starts_the_waiting_anew():
    """A simulation that starts over must not wait for its old clock."""
    config = ControllerConfig(min_dwell=0.2)
    state = update(ControllerState(), config, speeds(0.0), 1000.0)
    assert state.mode is FINE
    state = update(state, config, speeds(9.0), 0.0)
    assert state.mode is FINE and state.since == 0.0
    assert update(state, config, speeds(9.0), 0.2).mode is COARSE


# Settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"enter_translation": 0.2, "exit_translation": 0.1}, "exit_translation"),
        ({"enter_rotation": 2.0}, "exit_rotation"),
        ({"rule": "release", "enter_vertical": 0.3, "exit_vertical": 0.2}, "exit_vertical"),
        ({"enter_translation": math.nan}, "enter_translation"),
        ({"exit_rotation": math.inf}, "exit_rotation"),
        ({"enter_translation": -0.1}, "enter_translation"),
        ({"min_dwell": -1.0}, "min_dwell"),
        ({"time_constant": math.nan}, "time_constant"),
        ({"warm_up": -0.1}, "warm_up"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings_, message):
    """Invariant 17: exit thresholds are not below entry thresholds."""
    with pytest.raises(ConfigurationError, match=message):
        ControllerConfig(**settings_)


def test_thresholds_are_reported_by_rule():
    assert set(preset("specprune").controller.thresholds()) == {
        "enter_translation", "enter_rotation", "enter_vertical", "exit_translation",
        "exit_rotation"}
    assert preset("release").controller.thresholds()["exit_vertical"] == 0.2


@pytest.mark.parametrize("name", PRESETS)
def test_fine_mode_never_prunes_more_except_in_the_release(name):
    """Invariant 17: for every set and camera, checked when settings are made or changed."""
    config = preset(name)
    if name == "release":
        assert config.budgets.fine_below_coarse() == "scene.global"
        with pytest.raises(ConfigurationError, match="fine mode must not prune more"):
            replace(config, allow_fine_below_coarse=False)
        return
    assert config.budgets.fine_below_coarse() is None
    for kind in ("scene", "wrist"):
        fine = getattr(config.budgets, f"{kind}_fine")
        for field in ("global_", "dynamic", "local"):
            lower = replace(fine, **{field: 0})
            with pytest.raises(ConfigurationError, match=f"{kind}.{field.rstrip('_')}"):
                replace(config, budgets=replace(config.budgets, **{f"{kind}_fine": lower}))


@given(st.lists(st.integers(0, 30), min_size=12, max_size=12))
def test_any_budgets_are_checked(numbers):
    """Invariant 17 as a property."""
    made = CameraBudgets(*(Budget(*numbers[i : i + 3]) for i in range(0, 12, 3)))
    below = any(
        getattr(fine, f) < getattr(coarse, f)
        for coarse, fine in ((made.scene_coarse, made.scene_fine),
                             (made.wrist_coarse, made.wrist_fine))
        for f in ("global_", "dynamic", "local")
    )
    if below:
        with pytest.raises(ConfigurationError):
            SpecPruneConfig("x", made)
    else:
        SpecPruneConfig("x", made)


# Sources of motion: the episode --------------------------------------------------------------


def frame(stamp: float) -> Frame:
    return Frame(stamp, ("primary",), {}, lambda images: np.zeros((1, 14, 14, 3), np.uint8))


def after_query(actions: np.ndarray, stamp: float = 0.0) -> EpisodeState:
    state = EpisodeState(FrameRing(PERIOD))
    return state.after_query(frame(stamp), actions, None, ())


def chunk(*translations: float) -> np.ndarray:
    """Actions that move along x, in controller units."""
    actions = np.zeros((len(translations), 7))
    actions[:, 0] = translations
    return actions


def test_commanded_motion_is_that_of_the_executed_actions_only():
    """Invariants 10, 16: each row of the chunk is judged once when its time is over; rows that are
    not played yet do not count."""
    config = ControllerConfig(source="commanded")
    state = after_query(chunk(0.5, 0.5, 0.5, 0.04, 0.04, 9, 9, 9))
    state = state.judged(config, 3 * PERIOD)
    assert (state.controller.mode, state.rows_judged) == (COARSE, 3)
    assert state.controller.speeds.translation == pytest.approx(0.5)
    assert state.motion.in_units("net", PERIOD) == pytest.approx(1.5)
    again = state.judged(config, 3 * PERIOD)
    assert again.motion == state.motion
    state = state.judged(config, 5 * PERIOD)
    assert (state.controller.mode, state.rows_judged) == (FINE, 5)
    assert state.controller.since == pytest.approx(4 * PERIOD)  # when the slow one was played
    assert state.motion.in_units("net", PERIOD) == pytest.approx(1.58)
    assert state.motion.in_units("mean", PERIOD) == pytest.approx(1.58 / 5)
    late = state.judged(config, 100.0)
    assert late.rows_judged == 8


def test_a_query_starts_the_motion_anew():
    """Invariant 10: v is reset at each query."""
    config = ControllerConfig(source="commanded")
    state = after_query(chunk(0.5, 0.5)).judged(config, 2 * PERIOD)
    state = state.after_query(frame(2 * PERIOD), chunk(0.1, 0.1), None, ())
    assert math.isnan(state.motion.in_units("net", PERIOD))
    state = state.judged(config, 3 * PERIOD)
    assert state.motion.in_units("net", PERIOD) == pytest.approx(0.1)


def test_the_caller_can_say_what_was_executed():
    """Invariant 10: an executed action replaces the row of the chunk."""
    config = ControllerConfig(source="commanded")
    state = after_query(chunk(9, 9, 9, 9))
    for step in (1, 2, 3, 4):
        state = state.judged(config, step * PERIOD, action=np.full(7, 0.01))
    state = state.judged(config, 4 * PERIOD, at_query=True)
    assert state.controller.mode is FINE
    assert state.motion.in_units("net", PERIOD) == pytest.approx(0.04 * math.sqrt(3))
    with pytest.raises(ActionError):
        state.judged(config, 5 * PERIOD, action=np.full(7, np.nan))


def test_which_source_counts():
    """Invariant 10: measured, commanded, or measured where it is known."""
    slow_commands = after_query(chunk(*[0.0] * 8))
    fast = np.array([1.0, 0, 0, 0, 0, 0])
    for source, twist, mode in (
        ("auto", fast, COARSE), ("auto", None, FINE), ("commanded", fast, FINE),
        ("measured", fast, COARSE), ("measured", None, COARSE),
    ):
        state = slow_commands.judged(ControllerConfig(source=source), 8 * PERIOD, twist)
        assert state.controller.mode is mode, (source, twist)
    for source in ("auto", "commanded", "measured"):
        with pytest.raises(ObservationError):
            slow_commands.judged(ControllerConfig(source=source), 0.4, np.full(6, np.nan))


def test_measured_twists_are_filtered_as_vectors_by_real_intervals():
    """Invariant 17: noise about zero must not look like motion, and stamps jitter."""
    config = ControllerConfig(time_constant=0.2)
    random = np.random.default_rng(0)
    state, stamp, raw, found = EpisodeState(FrameRing(PERIOD)), 0.0, [], []
    for _ in range(400):
        stamp += PERIOD * random.uniform(0.2, 1.8)
        twist = 0.1 * random.standard_normal(6)
        state = state.judged(config, stamp, twist)
        raw.append(np.linalg.norm(twist[:3]))
        found.append(state.controller.speeds.translation)
    assert np.mean(found[20:]) < 0.5 * np.mean(raw[20:])
    # One long interval, or many short ones: the same filter.
    before, after = np.zeros(6), np.ones(6)
    once = low_pass(before, after, 0.3, 0.1)
    step = before
    for _ in range(30):
        step = low_pass(step, after, 0.01, 0.1)
    assert step == pytest.approx(once)
    assert low_pass(before, after, 0.05, 0.0) is after
    assert low_pass(None, after, 0.05, 0.1) is after
    assert low_pass(before, after, -1.0, 0.1) is after


def test_the_same_measurement_twice_counts_once():
    """A frame that is observed and then queried with has one stamp."""
    config = ControllerConfig()
    twist = np.array([0.2, 0, 0, 0, 0, 0])
    state = EpisodeState(FrameRing(PERIOD)).judged(config, 0.0, twist)
    state = state.judged(config, PERIOD, twist)
    again = state.judged(config, PERIOD, twist, at_query=True)
    assert again.motion == state.motion
    assert again.controller.speeds == state.controller.speeds


def test_time_set_back_forgets_the_chunk():
    """Invariant 11: what lies in the future of a query was not seen before it."""
    state = after_query(chunk(0.1, 0.1), stamp=50.0)
    state = replace(state, history="scores")
    assert state.rewound(50.0) is state
    back = state.rewound(1.0)
    assert back.last_query is None and back.last_actions is None and back.history is None
    assert back.query_number == 1


# Replanning --------------------------------------------------------------------------------


def test_replanning_is_asked_for_on_coarse_to_fine_with_actions_left():
    """Invariant 17: not on fine to coarse, not where the chunk is over, not unless wanted."""
    config = ControllerConfig(source="commanded", replan=True, min_dwell=0.0)
    braking = after_query(chunk(1, 1, 0, 0, 1, 1, 1, 1))
    assert not braking.judged(config, 2 * PERIOD).replan
    asked = braking.judged(config, 3 * PERIOD)
    assert asked.controller.mode is FINE and asked.replan
    assert asked.judged(config, 5 * PERIOD).replan  # until a query answers
    assert not asked.after_query(frame(0.2), chunk(0, 0), None, ()).replan
    without = replace(config, replan=False)
    assert not braking.judged(without, 3 * PERIOD).replan
    at_end = after_query(chunk(1, 1, 1, 0))
    assert not at_end.judged(config, 4 * PERIOD, at_query=True).replan
    fine = replace(after_query(chunk(1, 1, 1)), controller=ControllerState(FINE))
    leaving = fine.judged(config, PERIOD)
    assert leaving.controller.mode is COARSE and not leaving.replan


def test_the_release_leaves_fine_mode_only_where_a_chunk_ends():
    """Invariant 16: a lift in the middle of a chunk does not end fine mode."""
    config = replace(preset("release").controller, warm_up=0.0)
    lifting = np.zeros((8, 7))
    lifting[:, 2] = 0.3
    state = replace(after_query(lifting), controller=ControllerState(FINE))
    middle = state.judged(config, 4 * PERIOD)
    assert middle.controller.mode is FINE
    assert middle.judged(config, 8 * PERIOD, at_query=True).controller.mode is COARSE
    # Also where every action had been judged on its way.
    on_its_way = state.judged(config, 8 * PERIOD)
    assert on_its_way.controller.mode is FINE
    assert on_its_way.judged(config, 8 * PERIOD, at_query=True).controller.mode is COARSE
