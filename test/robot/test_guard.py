"""The guard: whatever comes, nothing stale, non-finite or beyond a limit passes."""
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specprune_ros.errors import ConfigurationError
from specprune_ros.robot.guard import (
    DOF,
    GuardLimits,
    Latch,
    Proposal,
    judge,
    saturate,
)
from specprune_ros.robot.watchdog import Alarm, Watchdog

DT = 0.05
SCALE = (0.05, 0.05, 0.05, 0.5, 0.5, 0.5)
UPRIGHT = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class At:
    """A pose."""

    position: tuple = (0.0, 0.0, 0.0)
    quaternion_xyzw: tuple = UPRIGHT


def turned(angle):
    """A pose turned about x."""
    return At(quaternion_xyzw=(math.sin(angle / 2), 0.0, 0.0, math.cos(angle / 2)))


def chunk(rows=8, **columns):
    """A chunk of zeros with open gripper, and some columns set."""
    actions = np.zeros((rows, DOF))
    actions[:, 6] = 1.0
    for name, value in columns.items():
        actions[:, ("x", "y", "z", "rx", "ry", "rz", "gripper").index(name)] = value
    return actions


def proposal(actions=None, **changes):
    actions = chunk() if actions is None else actions
    return replace(Proposal(actions, len(actions), SCALE, DT, 0.0), **changes)


# --- what passes -------------------------------------------------------------------------------

def test_good_chunk_passes_as_it_is():
    actions = chunk(x=0.5, rz=-0.2, gripper=0.3)
    verdict = judge(proposal(actions), GuardLimits())
    np.testing.assert_array_equal(verdict.actions, actions)
    assert (verdict.rule, verdict.reason, verdict.saturated) == ("", "", 0)


def test_overshoot_is_saturated_as_the_simulators_do():
    verdict = judge(proposal(chunk(x=1.2, ry=-1.01, gripper=-0.1)), GuardLimits())
    np.testing.assert_array_equal(verdict.actions, chunk(x=1.0, ry=-1.0, gripper=0.0))
    assert verdict.saturated == 24
    world = np.clip(chunk(x=1.2, ry=-1.01)[:, :6], -1.0, 1.0)
    np.testing.assert_array_equal(verdict.actions[:, :6], world)


def test_verdict_does_not_share_memory_with_the_policy():
    actions = chunk()
    verdict = judge(proposal(actions), GuardLimits())
    actions[:] = np.nan
    assert np.isfinite(verdict.actions).all()


# --- what is refused ---------------------------------------------------------------------------

BOX = ((-0.1, -1.0, -1.0), (0.3, 1.0, 1.0))


@pytest.mark.parametrize("change, limits, rule, words", [
    ({"rows": 4}, {}, "shape", ["(8, 7)", "(4, 7)"]),
    ({"actions": np.zeros(56)}, {}, "shape", ["(56,)"]),
    ({"actions": np.zeros((8, 6))}, {}, "shape", ["(8, 6)"]),
    ({"actions": "move"}, {}, "shape", ["no numbers"]),
    ({"actions": np.zeros((8, 7), complex)}, {}, "shape", ["complex"]),
    ({"actions": np.zeros((0, 7)), "rows": 0}, {}, "shape", ["(0, 7)"]),
    ({"actions": chunk(ry=np.nan)}, {}, "finite", ["ry of row 0 is nan"]),
    ({"actions": chunk(gripper=-np.inf)}, {}, "finite", ["gripper of row 0 is -inf"]),
    ({"age": 0.4}, {}, "stale", ["0.400 s old", "lasts 0.400 s"]),
    ({"age": 0.31}, {"max_age": 0.3}, "stale", ["guard.max_age"]),
    ({"age": -0.11}, {}, "stale", ["in the future"]),
    ({"age": math.nan}, {}, "stale", ["nan"]),
    ({"dt": 0.0}, {}, "stale", ["control period 0.0"]),
    ({"actions": chunk(x=3.1)}, {}, "command", ["x of row 0 is 3.1", "guard.max_command 3"]),
    ({"actions": chunk(gripper=2.1)}, {}, "command", ["gripper"]),
    ({"actions": chunk(rz=0.3)}, {"axis": (1, 1, 1, 1, 1, 0.2)}, "axis", ["rz", "axis_limit 0.2"]),
    ({"actions": chunk(x=1, y=1)}, {"step_translation": 0.06}, "step",
     ["translation of row 0: 0.07071 m", "guard.step.translation 0.06 m"]),
    ({"actions": chunk(rx=0.9)}, {"step_rotation": 0.4}, "step", ["rotation", "0.45 rad"]),
    ({"actions": chunk(x=[0, 0, 0.9, 0, 0, 0, 0, 0])}, {"change_translation": 0.04}, "change",
     ["rows 1 to 2", "0.045 m"]),
    ({"actions": chunk(rx=[0, 1, 0, 0, 0, 0, 0, 0])}, {"change_rotation": 0.4}, "change",
     ["rows 0 to 1"]),
    ({"start": At(), "measured": At((0.21, 0, 0))}, {}, "jump",
     ["0.21 m", "guard.jump.translation"]),
    ({"start": At(), "measured": turned(1.1)}, {}, "jump", ["1.1 rad"]),
    ({"start": At(), "measured": At((math.nan, 0, 0))}, {}, "jump", ["nan"]),
    ({"start": At()}, {"needs_pose": True}, "pose", ["not known"]),
    ({"measured": At()}, {"workspace": BOX}, "pose", ["not known"]),
    ({"actions": chunk(x=1), "start": At(), "measured": At()}, {"workspace": BOX}, "workspace",
     ["x would be 0.35 m after 7 rows", "-0.1 to 0.3 m"]),
    # Too late for six rows, so that only two are played from where the arm is now.
    ({"actions": chunk(x=0.8), "age": 0.31, "start": At((-0.05, 0, 0)),
      "measured": At((0.25, 0, 0))}, {"workspace": BOX, "jump_translation": 1.0}, "workspace",
     ["x would be 0.33 m", "after 2 rows"]),
    ({"start": At((-0.2, 0, 0)), "measured": At((-0.05, 0, 0))}, {"workspace": BOX}, "workspace",
     ["after 0 rows"]),
    ({"unit_scale": (1.0, 2.0)}, {}, "internal", ["cannot be judged"]),
    ({"unit_scale": (math.nan,) * 6}, {}, "finite", ["unit_scale"]),
    ({"start": object(), "measured": object()}, {}, "internal", ["AttributeError"]),
])
def test_refusal_names_the_rule_the_value_and_the_parameter(change, limits, rule, words):
    verdict = judge(proposal(**change), GuardLimits(**limits))
    assert verdict.actions is None and not verdict.accepted
    assert verdict.rule == rule
    for word in words:
        assert word in verdict.reason


def test_other_quaternion_of_the_same_rotation_is_no_jump():
    other = At(quaternion_xyzw=(-0.0, -0.0, -0.0, -1.0))
    assert judge(proposal(start=At(), measured=other), GuardLimits(jump_rotation=1e-3)).accepted


def test_values_at_a_limit_pass():
    limits = GuardLimits(axis=(0.5,) * 6, step_translation=0.025, jump_translation=0.1,
                         workspace=((0, -1, -1), (0.2, 1, 1)))
    at_limits = proposal(chunk(x=0.5), start=At(), measured=At())
    assert judge(at_limits, limits).accepted


@pytest.mark.parametrize("wrong, words", [
    ({"axis": (1.0,) * 5}, "5 values"),
    ({"axis": (1.0,) * 5 + (-1.0,)}, "axis limit of rz"),
    ({"step_rotation": math.nan}, "step_rotation"),
    ({"jump_translation": -1.0}, "jump_translation"),
    ({"workspace": ((0, 0, 0), (1, 1, 0))}, "no box"),
    ({"workspace": ((0, 0), (1, 1))}, "no box"),
    ({"workspace": ((0, 0, math.nan), (1, 1, 1))}, "no box"),
])
def test_limits_that_make_no_sense_are_refused(wrong, words):
    with pytest.raises(ConfigurationError, match=words):
        GuardLimits(**wrong)


# --- the property: against an oracle that shares no code with the guard -------------------------

SPECIAL = [math.nan, math.inf, -math.inf, 1e308, -1e308, 1e30, 5.0, -3.0, 1.0, -1.0, 1.0001, 0.999,
           -0.0, 5e-324]


CASES = 5  # chunks per example of hypothesis, which draws slowly


@st.composite
def proposals(draw):
    """Chunks around the limits, some with a few values that no chunk should have."""
    seed = draw(st.integers(0, 2**32 - 1))
    specials = draw(st.lists(st.sampled_from(SPECIAL) | st.floats(), max_size=2))
    age = draw(st.sampled_from([0.0, 0.0, -0.01, -0.2, 0.07]) | st.floats())
    rng = np.random.default_rng(seed)
    return [made_up(rng, specials, age) for _ in range(CASES)]


def made_up(rng, specials, age):
    rows = int(rng.integers(1, 11))
    size = rng.choice([0.02, 0.05, 0.1, 0.2, 0.6, 3.0])
    actions = rng.uniform(-size, size, (rows, DOF))
    over = rng.choice([0.0, 0.0, 0.2])
    actions[:, 6] = rng.uniform(-over, 1 + over, rows)
    for value in specials:
        if rng.random() < 0.5:
            actions[rng.integers(rows), rng.integers(DOF)] = value
    poses = [None, None]
    if rng.random() < 0.75:
        near = rng.uniform(-0.05, 0.05, (2, 3)) + rng.choice([0.0, 0.0, 0.5])
        turns = np.array(UPRIGHT) + rng.normal(0, 0.02, (2, 4))
        turns /= np.linalg.norm(turns, axis=1, keepdims=True)
        poses = [At(tuple(point), tuple(turn)) for point, turn in zip(near, turns)]
    expected = rows + int(rng.random() < 0.1)
    return Proposal(actions, expected, SCALE, DT, age if rng.random() < 0.3 else 0.0, *poses)


LIMITS = st.builds(
    GuardLimits,
    max_command=st.sampled_from([1.0, 3.0, 10.0]),
    axis=st.sampled_from([(1.0,) * 6, (0.5, 0.5, 0.3, 1.0, 1.0, 0.1)]),
    step_translation=st.sampled_from([0.1, 0.03]),
    step_rotation=st.sampled_from([1.0, 0.3]),
    change_translation=st.sampled_from([0.2, 0.05]),
    change_rotation=st.sampled_from([2.0, 0.5]),
    jump_translation=st.sampled_from([0.2, 0.05]),
    jump_rotation=st.sampled_from([1.0, 0.1]),
    workspace=st.sampled_from([None, ((-0.2, -0.2, -0.2), (0.2, 0.2, 0.2))]),
    max_age=st.sampled_from([math.inf, 0.1]),
    needs_pose=st.booleans(),
)
MORE = 1 + 1e-6  # the oracle allows for its own rounding


def within(actions, p, limits):
    """Whether saturated actions keep every limit; plain Python, one number after another."""
    if len(actions) != p.rows or not 0 - 2.0 * p.dt <= p.age <= min(limits.max_age, p.rows * p.dt):
        return False
    steps = []
    for row in actions:
        if len(row) != DOF or not all(math.isfinite(v) for v in row) or not 0 <= row[6] <= 1:
            return False
        if any(abs(v) > min(1.0, limit) * MORE for v, limit in zip(row, limits.axis)):
            return False
        step = [v * scale for v, scale in zip(row, p.unit_scale)]
        if math.hypot(*step[:3]) > limits.step_translation * MORE:
            return False
        if math.hypot(*step[3:]) > limits.step_rotation * MORE:
            return False
        if steps:
            difference = [a - b for a, b in zip(step, steps[-1])]
            if (math.hypot(*difference[:3]) > limits.change_translation * MORE
                    or math.hypot(*difference[3:]) > limits.change_rotation * MORE):
                return False
        steps.append(step)
    return pose_within(steps, p, limits)


def pose_within(steps, p, limits):
    if p.start is None or p.measured is None:
        return not limits.needs_pose and limits.workspace is None
    if math.dist(p.start.position, p.measured.position) > limits.jump_translation * MORE:
        return False
    cosine = sum(a * b for a, b in zip(p.start.quaternion_xyzw, p.measured.quaternion_xyzw))
    if 2 * math.acos(min(1.0, abs(cosine))) > limits.jump_rotation * MORE:
        return False
    if limits.workspace is None:
        return True
    lower, upper = limits.workspace
    for position, rows in ((p.start.position, steps), (p.measured.position, [])):
        position = list(position)
        for step in [[0.0] * 6, *rows]:
            position = [a + b for a, b in zip(position, step)]
            if any(not low <= v <= high for low, v, high in zip(lower, position, upper)):
                return False
    return True


def test_nothing_stale_not_finite_or_beyond_a_limit_passes():
    outcomes = {True: 0, False: 0}

    @settings(max_examples=10_000 // CASES, deadline=None,
              suppress_health_check=list(HealthCheck))
    @given(proposals(), LIMITS)
    def holds(cases, limits):
        for p in cases:
            verdict = judge(p, limits)
            outcomes[verdict.accepted] += 1
            if verdict.accepted:
                assert verdict.rule == verdict.reason == ""
                assert within(verdict.actions.tolist(), p, limits)
                # What passes is what the policy gave: saturated, not clamped to any other limit.
                np.testing.assert_array_equal(verdict.actions, saturate(p.actions))
                assert np.abs(p.actions[:, :6]).max() <= limits.max_command * MORE
            else:
                assert verdict.rule and verdict.reason

    holds()
    assert sum(outcomes.values()) >= 10_000
    assert min(outcomes.values()) > 1000, outcomes


@given(st.integers(0, 7), st.integers(0, 6), st.floats())
def test_one_bad_value_anywhere_refuses_the_whole_chunk(row, column, value):
    actions = chunk(x=0.1)
    assert judge(proposal(actions), GuardLimits()).accepted
    actions[row, column] = value
    centre, half = (0.5, 1.5) if column == 6 else (0.0, 3.0)  # max_command 3
    good = math.isfinite(value) and abs(value - centre) <= half
    assert judge(proposal(actions), GuardLimits()).accepted == good


# --- latch and watchdog ------------------------------------------------------------------------

@given(st.lists(st.booleans(), max_size=40), st.integers(1, 6))
def test_latch_holds_after_n_failures_in_a_row_until_cleared(outcomes, n):
    latch, in_a_row, expected = Latch(), 0, False
    for success in outcomes:
        if success:
            latch.succeed()
        else:
            latch.fail("out of reach", n)
        in_a_row = 0 if success else in_a_row + 1
        expected = expected or in_a_row >= n
        assert bool(latch.reason) == expected
    assert latch.total == outcomes.count(False)
    if expected:
        assert "out of reach" in latch.clear()
        assert latch.reason == "" and not latch.fail("again", 2)


def test_first_reason_of_a_latch_stays():
    latch = Latch()
    assert latch.trip("camera is gone") and not latch.trip("arm is gone")
    assert latch.clear() == "camera is gone" and latch.clear() == ""


def test_watchdog_holds_once_then_latches_once():
    dog = Watchdog()
    assert dog.check(0.0, ["camera"], 10.0) is Alarm.FINE  # nothing has moved yet
    dog.arm()
    alarms = [dog.check(t, ["camera"] if t >= 3 else [], 10.0) for t in range(20)]
    assert [(t, a) for t, a in enumerate(alarms) if a] == [(3, Alarm.HOLD), (13, Alarm.LATCH)]


def test_watchdog_starts_anew_when_the_problem_is_over_or_time_is_set_back():
    dog = Watchdog()
    dog.arm()
    assert dog.check(100.0, ["camera"], 10.0) is Alarm.HOLD
    assert dog.check(105.0, [], 10.0) is Alarm.FINE
    assert dog.check(106.0, ["camera"], 10.0) is Alarm.HOLD
    assert dog.check(2.0, ["camera"], 10.0) is Alarm.FINE
    assert dog.check(11.9, ["camera"], 10.0) is Alarm.FINE
    assert dog.check(12.0, ["camera"], 10.0) is Alarm.LATCH


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60))
def test_watchdog_never_latches_without_a_hold_before(steps):
    dog, now, held = Watchdog(), 0.0, False
    dog.arm()
    for pause, bad in steps:
        now += pause
        alarm = dog.check(now, ["camera"] if bad else [], 3.0)
        assert alarm is not Alarm.LATCH or held
        held = alarm is Alarm.HOLD or (held and bad)
