"""What vla_node publishes when something is wrong: dense, hold, or nothing until somebody looks."""
import math
import threading
from itertools import count

import numpy as np
import pytest
from rclpy.clock import ClockType
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.time import Time
from specprune_ros.msg import ActionChunk, VlaStatus
from vla_bench import Bench
from vla_rig import PERIOD, rows

from specprune_ros.errors import InferenceError
from specprune_ros.ros.conversions import ns_to_stamp, stamp_to_ns

GOOD = np.arange(56, dtype=np.float64).reshape(8, 7) / 100


@pytest.fixture
def bench(ros):
    return Bench(ros).up()


def await_hold(bench, stamp=None):
    """The first hold, or the first one of a stamp."""
    def found():
        return [hold for hold in bench.rig.holds
                if stamp in (None, stamp_to_ns(hold.header.stamp))]

    bench.rig.until(found)
    return found()[0]


def await_latch(bench):
    bench.rig.until(lambda: bench.rig.status.latched)
    status = bench.rig.status
    assert status.state == VlaStatus.FAULT
    assert "~/clear_fault" in status.fault_text
    return status


def pass_time(bench, seconds, **observation):
    """Let time pass in steps of 0.2 s, with an observation at each."""
    for _ in range(round(seconds / 0.2)):
        bench.rig.observe(periods=4, **observation)
        bench.ros.spin_until(lambda: False, timeout=0.1)


# --- the guard ---------------------------------------------------------------------------------

@pytest.mark.parametrize("actions, words", [
    (np.full((8, 7), np.nan), ["nan", "row 0"]),
    (np.where(np.arange(7) == 6, np.inf, GOOD), ["gripper of row 0 is inf"]),
    (np.zeros((8, 6)), ["shape (8, 6)"]),
    (np.zeros((4, 7)), ["shape (4, 7)", "(8, 7)"]),
    (GOOD * 100, ["guard.max_command"]),
])
def test_refused_chunk_gives_a_hold_and_a_reason(bench, actions, words):
    bench.rig.query()
    sent = len(bench.rig.chunks)
    bench.policy.fail(actions)
    stamp = bench.rig.observe()
    bench.rig.await_fault(VlaStatus.GUARD, *words)
    hold = await_hold(bench, stamp)
    assert hold.parameter_revision == 0 and hold.episode == 0
    assert len(bench.rig.chunks) == sent
    assert bench.rig.status.rejected >= 1 and bench.rig.status.last_rejection
    bench.policy.fail(None)
    chunk, _ = bench.rig.query(periods=1)  # not eight: the refused one does not count
    assert chunk.query_number == 1  # and left no trace in the episode
    bench.rig.await_state(VlaStatus.RUNNING)


@pytest.mark.parametrize("fault", [
    InferenceError("the network gave non-finite actions"), RuntimeError("out of memory"),
    np.full((8, 7), np.nan), GOOD * 100])
def test_dense_answers_where_pruned_fails(bench, fault):
    bench.rig.query()
    bench.policy.fault = fault
    chunk, stats = bench.rig.query()
    assert chunk.source == stats.source == ActionChunk.DENSE
    assert (stats.method, chunk.query_number) == ("off", 1)
    np.testing.assert_array_equal(rows(chunk), GOOD)
    assert bench.policy.dense.observations[-1] is bench.policy.observations[-1]
    assert bench.rig.holds == []
    bench.policy.fault = None
    chunk, _ = bench.rig.query()
    assert (chunk.source, chunk.query_number) == (ActionChunk.POLICY, 2)
    bench.rig.until(lambda: bench.rig.status.dense_fallbacks == 1)
    assert bench.rig.status.failures == 0


def test_there_is_no_second_dense_query_where_nothing_is_pruned(ros):
    bench = Bench(ros, pruning="off").up()
    bench.policy.fault = RuntimeError("out of memory")
    bench.rig.observe()
    bench.rig.await_fault(VlaStatus.INFERENCE, "out of memory")
    assert bench.policy.dense is None


def test_overshoot_is_saturated_and_counted(bench):
    bench.policy.fault = GOOD + np.where(np.arange(7) == 0, 1.0, 0.0)
    chunk, stats = bench.rig.query()
    assert rows(chunk)[:, 0].max() == 1.0
    assert stats.saturated == 7  # of the eight, the first is 1.0 already
    assert chunk.source == ActionChunk.POLICY


def test_limits_are_live(bench):
    bench.rig.query(slide=0.4)
    bench.set(guard__workspace__enabled=True)
    assert not bench.rig.set_parameter("guard.workspace.upper", [-2.0, 1.0, 1.0]).successful
    bench.set(guard__workspace__upper=[0.41, 1.0, 1.0])
    bench.rig.observe(slide=0.4)
    bench.rig.await_fault(VlaStatus.GUARD, "x would be 0.4", "guard.workspace")
    bench.set(guard__workspace__upper=[1.0, 1.0, 1.0])
    chunk, _ = bench.rig.query(slide=0.4)
    assert chunk.parameter_revision == 3


def test_arm_that_was_moved_during_the_query_is_a_jump(bench):
    bench.rig.query(slide=0.1)
    bench.policy.gate.clear()
    bench.policy.entered.clear()
    bench.rig.observe(slide=0.1)
    bench.rig.until(bench.policy.entered.is_set)
    bench.rig.observe(periods=1, slide=0.5, images={"primary": None, "wrist": None})
    received = bench.rig.status.joint_states_received
    bench.rig.until(lambda: bench.rig.status.joint_states_received > received)
    bench.policy.gate.set()
    bench.rig.await_fault(VlaStatus.GUARD, "0.4 m away", "guard.jump.translation")
    assert len(bench.rig.chunks) == 1
    assert bench.policy.dense is None  # it would not help


# --- latch -------------------------------------------------------------------------------------

def test_fault_is_latched_after_n_failures_in_a_row_until_cleared(ros):
    bench = Bench(ros, guard__latch_after=3).up()
    chunk, _ = bench.rig.query()
    bench.policy.fail(GOOD * 100)
    for periods in (8, 1, 1):
        await_hold(bench, bench.rig.observe(periods=periods))
    status = await_latch(bench)
    assert status.fault_code == VlaStatus.GUARD
    assert "3 failures in a row" in status.fault_text and "guard.max_command" in status.fault_text
    bench.policy.fail(None)  # that alone does not help
    asked, held = len(bench.policy.observations), len(bench.rig.holds)
    pass_time(bench, 3.0)
    assert len(bench.policy.observations) == asked
    assert (len(bench.rig.chunks), len(bench.rig.holds)) == (1, held)
    answer = bench.rig.clear_fault()
    assert answer.success and "3 failures in a row" in answer.message
    again, _ = bench.rig.query()
    assert (again.episode, again.query_number) == (chunk.episode + 1, 0)
    assert not bench.rig.await_state(VlaStatus.RUNNING).latched
    assert bench.rig.clear_fault().message == "no fault was latched"
    later, _ = bench.rig.query()
    assert later.episode == again.episode


def test_success_in_between_starts_the_count_anew(ros):
    bench = Bench(ros, guard__latch_after=2).up()
    for _ in range(3):
        bench.policy.fail(RuntimeError("now and then"))
        await_hold(bench, bench.rig.observe())
        bench.policy.fail(None)
        bench.rig.query()
    assert not bench.rig.status.latched


def test_latch_outlives_deactivation(ros):
    bench = Bench(ros, guard__latch_after=1).up()
    bench.policy.fail(RuntimeError("broken"))
    bench.rig.observe()
    await_latch(bench)
    assert bench.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert bench.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert await_latch(bench).fault_code == VlaStatus.INFERENCE
    assert bench.rig.chunks == []


# --- watchdogs ---------------------------------------------------------------------------------

def test_camera_that_stops_gives_one_hold_then_a_latch(ros):
    bench = Bench(ros, watchdog__latch_after=2.0).up()
    bench.rig.query()
    pass_time(bench, 2.0, images={"wrist": None})
    assert len(bench.rig.holds) == 1
    stopped = stamp_to_ns(bench.rig.holds[0].header.stamp)
    assert 1.0 < (stopped - stamp_to_ns(bench.rig.chunks[-1].header.stamp)) / 1e9 < 1.7
    pass_time(bench, 2.0, images={"wrist": None})
    status = await_latch(bench)
    assert status.fault_code == VlaStatus.TIMEOUT and "camera/wrist" in status.fault_text
    assert len(bench.rig.chunks) == 1
    bench.rig.clear_fault()
    bench.rig.query()


def test_nothing_is_latched_before_anything_moved(ros):
    bench = Bench(ros, watchdog__latch_after=0.5).up()
    pass_time(bench, 4.0, images={"wrist": None})
    assert bench.rig.status.state == VlaStatus.WAITING and not bench.rig.status.latched
    assert bench.rig.holds == []


def test_query_of_three_seconds_gives_a_hold_and_its_result_is_dropped(bench):
    bench.rig.query()
    bench.policy.gate.clear()
    bench.policy.entered.clear()
    late = bench.rig.observe()
    bench.rig.until(bench.policy.entered.is_set)
    pass_time(bench, 3.0)
    bench.rig.await_fault(VlaStatus.TIMEOUT, "watchdog.inference_deadline")
    hold = await_hold(bench)
    assert stamp_to_ns(hold.header.stamp) > late
    bench.policy.gate.set()
    bench.rig.until(lambda: bench.rig.status.failures == 1)
    assert "watchdog.inference_deadline" in bench.rig.status.last_rejection or (
        bench.rig.status.fault_text)
    assert late not in {stamp_to_ns(chunk.header.stamp) for chunk in bench.rig.chunks}
    bench.rig.query()
    bench.rig.await_state(VlaStatus.RUNNING)


def test_clock_that_steps_after_the_guard_has_judged_makes_the_chunk_stale(bench, monkeypatch):
    """A chunk is judged when it is published, not a moment before."""
    first, _ = bench.rig.query()
    runner, judged, go_on = bench.node._engine._runner, threading.Event(), threading.Event()
    run = runner.run

    def slow_return(job):
        outcome = run(job)
        if job.query is not None:
            judged.set()
            assert go_on.wait(60.0)
        return outcome

    monkeypatch.setattr(runner, "run", slow_return)
    late = bench.rig.observe()
    bench.rig.until(judged.is_set)
    bench.rig.now += 9 * PERIOD  # the chunk lasts 8
    bench.rig.until(lambda: bench.node._now() == bench.rig.now, again=bench.rig.again)
    monkeypatch.undo()
    go_on.set()
    bench.rig.await_fault(VlaStatus.GUARD, "0.450 s old", "guard.max_age")
    assert await_hold(bench, late) and len(bench.rig.chunks) == 1
    bench.rig.until(lambda: bench.rig.status.failures == bench.rig.status.rejected == 1)
    chunk, _ = bench.rig.query()  # the refused query left no trace
    assert (chunk.episode, chunk.query_number) == (first.episode, first.query_number + 1)


def test_stats_have_the_age_that_the_guard_judged(bench, monkeypatch):
    """Also where the clock is set between its verdict and the publication."""
    safety = bench.node._engine.responder.safety
    judge, asked = safety.judge, count(1)

    def judge_then_step(job, chunk, now):
        verdict = judge(job, chunk, now)
        if next(asked) == 2:  # the verdict of the publication
            bench.node.get_clock().set_ros_time_override(
                Time(nanoseconds=now + 9 * PERIOD, clock_type=ClockType.ROS_TIME))
        return verdict

    monkeypatch.setattr(safety, "judge", judge_then_step)
    _, stats = bench.rig.query()
    assert next(asked) == 3
    assert stats.observation_age == 0.0


def test_camera_that_lags_by_200_ms_gives_a_hold_then_a_latch(ros):
    bench = Bench(ros, watchdog__latch_after=2.0).up()
    bench.rig.query()
    for _ in range(20):
        late = bench.rig.picture("wrist")
        late.header.stamp = ns_to_stamp(bench.rig.now + PERIOD)  # 5 periods from now: 200 ms late
        bench.rig.observe(periods=5, images={"wrist": late})
        bench.ros.spin_until(lambda: False, timeout=0.1)
    assert bench.rig.holds
    assert await_latch(bench).fault_code == VlaStatus.TIMEOUT


# --- holds -------------------------------------------------------------------------------------

def test_hold_keeps_the_gripper_as_it_was_commanded_at_that_time(ros):
    bench = Bench(ros, replan_steps=2).up()
    actions = GOOD.copy()
    actions[:, 6] = [1, 1, 1, 0, 0, 0.2, 0.2, 0.2]
    bench.policy.fault = actions
    bench.rig.query()
    bench.policy.fail(RuntimeError("broken"))
    for periods, gripper in ((2, 1.0), (1, 1.0), (30, 1.0)):  # the first hold stopped the closing
        hold = await_hold(bench, bench.rig.observe(periods=periods))
        assert rows(hold)[0, 6] == gripper


def test_hold_leaves_the_gripper_alone_where_nothing_was_commanded(bench):
    bench.policy.fail(RuntimeError("broken"))
    assert rows(await_hold(bench, bench.rig.observe()))[0, 6] == 0.5


def test_deactivation_and_reset_end_the_motion(bench):
    bench.rig.query()
    bench.rig.reset()
    hold = await_hold(bench)
    assert rows(hold)[0, 6] == 0.06  # the gripper of the first row
    bench.rig.query()
    assert bench.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    bench.rig.until(lambda: len(bench.rig.holds) == 2)
    bench.rig.reset()  # nothing moves any more
    bench.rig.observe()
    assert bench.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    bench.rig.query()
    assert len(bench.rig.holds) == 2


# --- dry run, seams, replanning, shadow, blank pictures ------------------------------------------

def test_dry_run_publishes_a_preview_only(bench):
    bench.rig.query()
    bench.set(dry_run=True)
    await_hold(bench)  # what moved has been stopped
    stamp = bench.rig.observe()
    bench.rig.until(lambda: bench.rig.previews)
    preview = bench.rig.previews[-1]
    assert stamp_to_ns(preview.header.stamp) == stamp and preview.source == ActionChunk.POLICY
    assert len(bench.rig.chunks) == 1
    bench.rig.until(lambda: bench.rig.status.dry_run)
    bench.set(dry_run=False)
    bench.rig.query()
    assert len(bench.rig.chunks) == 2 and len(bench.rig.previews) == 1


def test_seam_is_the_step_of_the_commanded_velocity(bench):
    _, first = bench.rig.query()
    assert math.isnan(first.seam_translation) and math.isnan(first.seam_rotation)
    _, stats = bench.rig.query()  # row 7 of the old chunk, then row 0 of the new one: 0.49 apart
    assert stats.seam_translation == pytest.approx(math.sqrt(3) * 0.49 * 0.05 / 0.05)
    assert stats.seam_rotation == pytest.approx(math.sqrt(3) * 0.49 * 0.5 / 0.05)
    bench.rig.reset()
    _, stats = bench.rig.query()
    assert math.isnan(stats.seam_translation)


def test_controller_that_wants_a_query_gets_it_before_its_time(bench):
    first, _ = bench.rig.query()
    bench.rig.observe(periods=2)
    bench.policy.replan = True
    bench.rig.until(lambda: len(bench.policy.episodes[-1]["frames"]) > 1,
                    again=lambda: bench.rig.observe(periods=1))
    bench.rig.until(lambda: len(bench.rig.chunks) > 1, again=lambda: bench.rig.observe(periods=1))
    bench.policy.replan = False
    early = bench.rig.chunks[1]
    ahead = stamp_to_ns(early.header.stamp) - stamp_to_ns(first.header.stamp)
    assert PERIOD <= ahead < 8 * PERIOD
    # The next one is due when it would have been without.
    bench.rig.now = stamp_to_ns(first.header.stamp)
    due, _ = bench.rig.query(periods=8)
    assert due.query_number == 2


def test_shadow_query_measures_the_distance_and_switches_to_dense(bench):
    _, stats = bench.rig.query()
    assert math.isnan(stats.shadow_distance) and bench.policy.dense is None
    bench.set(shadow__every=2, shadow__limit=0.1, shadow__dense_queries=2)
    distances, sources = [], []
    for k in range(8):
        bench.policy.dense_fault = GOOD + (0.2 if k == 3 else 0.05)
        chunk, stats = bench.rig.query()
        distances.append(stats.shadow_distance)
        sources.append(chunk.source)
    assert [None if math.isnan(d) else round(d, 4) for d in distances] == [
        None, 0.05, None, 0.2, None, None, None, 0.05]
    assert sources == [0, 0, 0, 0, ActionChunk.DENSE, ActionChunk.DENSE, 0, 0]


def test_shadow_query_that_fails_does_no_harm(bench):
    bench.set(shadow__every=1)
    bench.policy.dense_fault = RuntimeError("out of memory")
    chunk, stats = bench.rig.query()
    assert chunk.source == ActionChunk.POLICY and math.isnan(stats.shadow_distance)
    bench.rig.query()


def test_blank_picture_is_not_used(bench):
    bench.rig.query()
    blank = bench.rig.picture("wrist")
    asked = len(bench.policy.observations)
    bench.rig.observe(images={"wrist": {"data": bytes(len(blank.data))}})
    bench.rig.await_fault(VlaStatus.IMAGE, "camera/wrist", "blank", "lens cap", "min_contrast")
    assert len(bench.policy.observations) == asked
    bench.set(min_contrast=0)
    bench.rig.query(images={"wrist": {"data": bytes(len(blank.data))}})
