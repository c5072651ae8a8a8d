"""Matching of inputs by stamp, and when a query is due. No ROS, no threads, no time."""
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vla_rig import JOINTS, PERIOD, URDF

from specprune_ros.errors import ConfigurationError, JointStateError, ObservationError
from specprune_ros.ros.arm_state import ArmTracker, JointReading
from specprune_ros.ros.inputs import History, ImageSynchronizer
from specprune_ros.ros.planner import QueryPlanner
from specprune_ros.ros.vla_parameters import VlaSettings

MS = 1_000_000


def reading(stamp, slide=0.0, names=JOINTS, **changes):
    fields = {"positions": [slide, 0.0, 0.04, 0.04][:len(names)], "velocities": [], **changes}
    return JointReading(stamp, names, **fields)


# --- history -----------------------------------------------------------------------------------

@given(st.lists(st.integers(0, 100), max_size=30), st.integers(0, 100))
def test_nearest_is_nearest_whatever_the_order_of_arrival(stamps, wanted):
    history = History(depth=100)
    for stamp in stamps:
        history.add(stamp, f"at {stamp}")
    assert [stamp for stamp, _ in history] == sorted(set(stamps))
    found = history.nearest(wanted)
    if not stamps:
        assert found is None
    else:
        assert abs(found[0] - wanted) == min(abs(stamp - wanted) for stamp in stamps)
        assert found[1] == f"at {found[0]}"


def test_history_keeps_the_newest():
    history = History(depth=2)
    assert history.add(1, "a") and history.add(3, "c")
    assert not history.add(2, "b")
    assert list(history) == [(2, "b"), (3, "c")]
    assert history.drop_until(2) == 1
    assert history.drop_after(2) == 1
    assert history.newest is None


# --- pictures of several cameras ---------------------------------------------------------------

@given(st.integers(0, 2**32))
def test_equal_stamps_meet_whatever_camera_is_faster(seed):
    cameras = ("primary", "left_wrist", "right_wrist")
    queues = {camera: [k * 50 * MS for k in range(6)] for camera in cameras}
    sync = ImageSynchronizer(cameras, slop=20 * MS)
    rng, sets = random.Random(seed), []
    while any(queues.values()):
        camera = rng.choice([c for c in cameras if queues[c]])
        stamp = queues[camera].pop(0)
        sets.append(sync.add(camera, stamp, (camera, stamp)))
    sets = [s for s in sets if s]
    # A fast camera never makes a set of pictures of different times.
    assert all(image == (camera, s.stamp) for s in sets for camera, image in s.images.items())
    assert [s.stamp for s in sets] == [k * 50 * MS for k in range(6)]
    assert sync.unmatched == 0


def test_stamps_within_the_slop_meet_and_the_newest_counts():
    sync = ImageSynchronizer(("primary", "wrist"), slop=20)
    assert sync.add("primary", 100, "p") is None
    assert sync.add("wrist", 79, "too old") is None
    complete = sync.add("wrist", 115, "w")
    assert complete.stamp == 115
    assert dict(complete.images) == {"primary": "p", "wrist": "w"}
    assert list(complete.images) == ["primary", "wrist"]


def test_all_cameras_agree_not_only_pairs():
    sync = ImageSynchronizer(("primary", "a_wrist", "b_wrist"), slop=20)
    sync.add("a_wrist", 85, 0)
    sync.add("b_wrist", 115, 0)
    assert sync.add("primary", 100, 0) is None  # each within 20 of it, but 30 apart


def test_pictures_without_partner_are_counted():
    sync = ImageSynchronizer(("primary", "wrist"), slop=5, depth=4)
    for stamp in (100, 200, 300):
        assert sync.add("primary", stamp, 0) is None
    assert sync.add("wrist", 300, 0) is not None
    assert sync.unmatched == 2
    for stamp in range(400, 1000, 100):
        sync.add("primary", stamp, 0)
    assert sync.unmatched == 4  # two fell out of the four that are kept


def test_a_picture_is_used_once_unless_allowed_again():
    sync = ImageSynchronizer(("primary",), slop=0)
    assert sync.add("primary", 100, 0) is not None
    assert sync.add("primary", 100, 0) is None
    assert sync.add("primary", 90, 0) is None
    sync.allow_again()
    assert sync.add("primary", 100, 0) is not None


def test_time_that_goes_back_forgets_the_future():
    sync = ImageSynchronizer(("primary", "wrist"), slop=0)
    sync.add("primary", 100, 0), sync.add("wrist", 100, 0)
    sync.add("primary", 200, "future")
    sync.forget_after(50)
    assert sync.add("wrist", 200, 0) is None
    sync.add("primary", 60, 0)
    assert sync.add("wrist", 60, 0).stamp == 60


# --- the arm -----------------------------------------------------------------------------------

@pytest.fixture
def arm():
    arm = ArmTracker(VlaSettings(), with_proprio=True)
    arm.describe(URDF)
    return arm


def test_joint_states_before_the_description_are_used_after_it():
    arm = ArmTracker(VlaSettings(), with_proprio=True)
    arm.add(reading(1000, slide=0.5))
    assert not arm.ready and arm.samples.newest is None
    arm.describe(URDF)
    assert arm.samples.nearest(1000)[1].proprio[0] == pytest.approx(0.5)


def test_the_same_description_again_keeps_what_is_known(arm):
    arm.add(reading(1000))
    arm.describe(URDF)
    assert arm.samples.newest == 1000


def test_missing_gripper_joints_matter_only_for_proprio(arm):
    with pytest.raises(JointStateError, match="panda_finger_joint1"):
        arm.add(reading(1000, names=JOINTS[:2]))
    without = ArmTracker(VlaSettings(), with_proprio=False)
    without.describe(URDF)
    without.add(reading(1000, names=JOINTS[:2]))
    assert without.samples.nearest(1000)[1].proprio is None


def test_joint_states_that_went_back_start_afresh(arm):
    arm.add(reading(2000 * MS))
    with pytest.raises(JointStateError, match="went back"):
        arm.add(reading(1000 * MS))
    arm.add(reading(1001 * MS))
    assert arm.samples.newest == 1001 * MS


def test_wrong_frame_keeps_what_worked(arm):
    with pytest.raises(ConfigurationError, match="flange"):
        arm.apply(VlaSettings({"tool_frame": "flange"}))
    arm.add(reading(1000))
    assert arm.samples.newest == 1000


# --- the planner -------------------------------------------------------------------------------

class Plan:
    """A planner at a time, with one camera unless told otherwise."""

    def __init__(self, needs_arm=False, **values):
        values = {"cameras": ("primary",), "camera_rotation": (0,), **values}
        self.planner = QueryPlanner(VlaSettings(values), needs_arm)
        self.planner.set_instruction("push")
        self.now = 0

    def see(self, stamp, camera="primary"):
        self.now = max(self.now, stamp)
        self.planner.note(f"camera/{camera}", stamp)
        self.planner.add_image(camera, stamp, f"picture at {stamp}")
        return self

    def job(self):
        return self.planner.next_job(self.now)

    def query(self, success=True):
        """Stamp of the query that is due, which is run; None if none is."""
        job = self.job()
        if job is None:
            return None
        self.planner.finished(job, success)
        return job.query.stamp if job.query else None


def test_query_at_once_then_every_replan_steps():
    plan = Plan(replan_steps=4)
    queried = []
    for k in range(1, 14):
        # Stamps jitter by a few milliseconds.
        queried.append(plan.see(k * PERIOD + (k % 3 - 1) * 2 * MS).query())
    assert [k for k, stamp in enumerate(queried, 1) if stamp is not None] == [1, 5, 9, 13]


def test_newest_set_is_queried_and_the_older_ones_are_only_looked_at():
    plan = Plan()
    for k in range(1, 5):
        plan.see(k * PERIOD)
    job = plan.job()
    assert [frame.stamp for frame in job.observe] == [PERIOD, 2 * PERIOD, 3 * PERIOD]
    assert job.query.stamp == 4 * PERIOD


def test_no_query_without_a_task():
    plan = Plan()
    with pytest.raises(ObservationError, match="empty"):
        plan.planner.set_instruction(" \n")
    assert plan.see(PERIOD).job() is None
    assert "instruction" in " ".join(plan.planner.missing(plan.now))
    plan.planner.set_instruction("pull")
    assert plan.job().query.stamp == PERIOD  # the pictures that had come


def test_old_pictures_are_not_queried():
    plan = Plan(input_timeout=1.0).see(PERIOD)
    plan.now = PERIOD + 1_001 * MS
    job = plan.job()
    assert job.query is None and len(job.observe) == 1


def test_failed_query_is_repeated_with_the_next_observation_only():
    plan = Plan().see(PERIOD)
    assert plan.query(success=False) == PERIOD
    assert plan.query() is None  # not over and over with the same one
    assert plan.see(2 * PERIOD).query() == 2 * PERIOD


def test_reset_ignores_pictures_of_before():
    plan = Plan().see(PERIOD)
    plan.query()
    plan.now = 3 * PERIOD
    plan.planner.reset(plan.now)
    assert plan.see(2 * PERIOD).query() is None  # was still under way
    assert plan.see(4 * PERIOD).query() == 4 * PERIOD
    assert plan.planner.episode == 1


def test_reset_ignores_joint_states_of_before():
    plan = Plan(needs_arm=True)
    plan.planner.arm.describe(URDF)
    plan.planner.add_joints(reading(PERIOD, slide=0.0, velocities=[5.0, 0, 0, 0]))
    plan.planner.reset(3 * PERIOD)
    # Still under way: the arm moved fast, in the last episode.
    plan.planner.add_joints(reading(2 * PERIOD, slide=0.5, velocities=[5.0, 0, 0, 0]))
    plan.planner.add_joints(reading(3 * PERIOD, slide=0.1, velocities=[0.0, 0, 0, 0]))
    arm = plan.see(3 * PERIOD).job().query.arm
    assert arm.twist[0] == 0.0 and arm.proprio[0] == pytest.approx(0.1)


def test_result_of_an_old_episode_does_not_delay_the_new_one():
    plan = Plan().see(PERIOD)
    job = plan.job()
    plan.now = 2 * PERIOD
    plan.planner.reset(plan.now)
    plan.planner.finished(job, success=True)
    assert plan.see(3 * PERIOD).query() == 3 * PERIOD


def test_task_that_changes_during_the_first_query_is_a_new_episode():
    plan = Plan().see(PERIOD)
    job = plan.job()
    assert plan.planner.set_instruction("pull")
    plan.planner.finished(job, success=True)
    assert (plan.planner.episode, plan.query()) == (1, PERIOD)


@pytest.mark.parametrize("arm_first", [True, False])
def test_arm_of_the_same_stamp_is_used_whichever_comes_first(arm_first):
    plan = Plan(needs_arm=True)
    plan.planner.arm.describe(URDF)
    plan.planner.add_joints(reading(PERIOD, slide=0.1))
    if arm_first:
        plan.planner.add_joints(reading(2 * PERIOD, slide=0.2))
        plan.see(2 * PERIOD)
    else:
        assert plan.see(2 * PERIOD).job() is None  # a nearer joint state may still come
        plan.planner.add_joints(reading(2 * PERIOD, slide=0.2))
    assert plan.job().query.arm.proprio[0] == pytest.approx(0.2)


def test_arm_nearest_in_stamp_is_used():
    plan = Plan(needs_arm=True)
    plan.planner.arm.describe(URDF)
    for at, slide in ((80, 0.1), (97, 0.2), (110, 0.3)):
        plan.planner.add_joints(reading(at * MS, slide=slide))
    assert plan.see(100 * MS).job().query.arm.proprio[0] == pytest.approx(0.2)


def test_arm_that_is_too_far_off_is_counted_not_used():
    plan = Plan(needs_arm=True)
    plan.planner.arm.describe(URDF)
    plan.planner.add_joints(reading(100 * MS))
    plan.planner.add_joints(reading(300 * MS))
    assert plan.see(200 * MS).job() is None
    assert plan.planner.unsynchronised == 1


def test_arm_that_is_not_needed_is_not_waited_for_without_end():
    plan = Plan(needs_arm=False, input_timeout=1.0)
    plan.planner.arm.describe(URDF)
    plan.planner.add_joints(reading(100 * MS))
    assert plan.see(200 * MS).job() is None
    plan.see(1_101 * MS)
    assert plan.job().query.arm is None


def test_time_that_goes_back_starts_an_episode_once():
    plan = Plan().see(100 * PERIOD)
    plan.query()
    plan.now = 5 * PERIOD
    assert plan.planner.time_went_back(plan.now)
    assert not plan.planner.time_went_back(plan.now)
    assert plan.see(6 * PERIOD).query() == 6 * PERIOD
    assert plan.planner.episode == 1


def test_picture_of_an_earlier_time_starts_an_episode_before_the_clock_does():
    plan = Plan().see(100 * PERIOD)
    plan.query()
    plan.planner.add_image("primary", 5 * PERIOD, "after the reset of the world")
    plan.now = 5 * PERIOD
    assert plan.query() == 5 * PERIOD
    assert plan.planner.episode == 1
    assert not plan.planner.time_went_back(5 * PERIOD)  # nothing left to forget


def test_stamps_ahead_of_the_clock_are_refused_beyond_the_timeout():
    planner = Plan(input_timeout=1.0).planner
    now = 100 * PERIOD
    planner.check_stamp(now + 1_000 * MS, now)  # overtook the message of the clock
    with pytest.raises(ObservationError, match="2 s in the future.*use_sim_time"):
        planner.check_stamp(now + 1_501 * MS, now)
    with pytest.raises(ObservationError, match="20833 days"):
        planner.check_stamp(1_800_000_000_000 * MS, now)


def test_clock_that_begins_late_refuses_nothing_and_forgets_what_was_wrong():
    plan = Plan()
    for stamp in (PERIOD, 10**18):
        plan.planner.check_stamp(stamp, 0)
        plan.see(stamp)
    plan.now = 2 * PERIOD
    plan.planner.check_stamp(2 * PERIOD, plan.now)
    assert plan.see(2 * PERIOD).query() == 2 * PERIOD


def test_what_is_missing_is_said_in_words():
    plan = Plan(needs_arm=True)
    text = "; ".join(plan.planner.missing(0))
    assert "camera/primary: nothing received yet" in text
    assert "joint_states" in text and "robot_description" in text
    plan.see(PERIOD)
    later = PERIOD + 2_000 * MS
    assert "input_timeout" in plan.planner.missing(later)[0]
    assert "future" in plan.planner.missing(PERIOD - 2_000 * MS)[0]
    assert "use_sim_time" in plan.planner.missing(10**18)[0]
