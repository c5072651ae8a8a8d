"""Which topics of a bag feed the node, and where time comes from."""
from __future__ import annotations

import pytest
from bags import BAG, clock, compressed, image, joints, rewrite, status, text, write

from specprune_ros.errors import ConfigurationError, RecordingError
from specprune_ros.replay.plan import make_plan, parse_remaps
from specprune_ros.replay.recorded import open_bag
from specprune_ros.replay.timeline import (
    Deliver,
    Reset,
    SetTime,
    check_complete,
    choose_clock,
    timeline,
)

PRIMARY, WRIST = "/camera/primary/image_raw", "/camera/wrist/image_raw"


@pytest.fixture
def bag_of(tmp_path):
    """Opens a bag of these messages: [(topic, seconds, message)]."""
    opened = []

    def make(messages, **options):
        bag = open_bag(write(tmp_path / f"bag{len(opened)}", messages, **options))
        opened.append(bag)
        return bag.__enter__()

    yield make
    for bag in opened:
        bag.__exit__(None, None, None)


def both(seconds, topics=(PRIMARY, WRIST), kind=image):
    return [(topic, seconds, kind(seconds)) for topic in topics]


# --- topics ------------------------------------------------------------------------------------

def test_the_recorded_bag():
    with open_bag(BAG) as bag:
        plan = make_plan(bag, {})
    assert plan.inputs == {
        "/camera/primary/image_raw/compressed": "camera/primary/image_raw/compressed",
        "/camera/wrist/image_raw/compressed": "camera/wrist/image_raw/compressed",
        "/joint_states": "joint_states", "/instruction": "instruction",
        "/robot_description": "robot_description"}
    assert plan.cameras == ("primary", "wrist") and plan.compressed and plan.clock == "/clock"
    assert plan.outputs == {name: f"/{name}"
                            for name in ("action_chunk", "prune_stats", "vla_status")}


def test_topics_of_a_namespace_and_the_only_joint_states(bag_of):
    bag = bag_of([*both(1, ("/left/camera/primary/image_raw",)), ("/arm/joints", 1, joints(1)),
                  ("/left/instruction", 1, text("lift"))])
    plan = make_plan(bag, {})
    assert plan.inputs == {"/left/camera/primary/image_raw": "camera/primary/image_raw",
                           "/arm/joints": "joint_states", "/left/instruction": "instruction"}
    assert plan.cameras == ("primary",) and plan.outputs == {} and plan.clock is None


def test_foreign_topics_by_remaps(bag_of):
    bag = bag_of([("/front/image/compressed", 1, compressed(1)), ("/task", 1, text("lift")),
                  ("/hand/color", 1, compressed(1)), ("/a/joint_states", 1, joints(1)),
                  ("/b/joint_states", 1, joints(1))])
    plan = make_plan(bag, parse_remaps([
        "front/image/compressed:=/camera/primary/image_raw",
        "/hand/color:=camera/wrist_left/image_raw/compressed",
        "/task:=instruction", "/b/joint_states:=joint_states"]))
    assert plan.cameras == ("primary", "wrist_left") and plan.compressed
    assert plan.inputs["/front/image/compressed"] == "camera/primary/image_raw/compressed"
    assert plan.inputs["/b/joint_states"] == "joint_states"
    assert "/a/joint_states" not in plan.inputs


@pytest.mark.parametrize("transport, expected", [(None, False), ("raw", False),
                                                 ("compressed", True)])
def test_where_both_were_recorded_one_is_taken(transport, expected, bag_of):
    bag = bag_of([*both(1), *both(1, (f"{PRIMARY}/compressed", f"{WRIST}/compressed"),
                                  compressed)])
    plan = make_plan(bag, {}, transport=transport)
    assert plan.compressed is expected and len(plan.inputs) == 2


def test_cameras_that_are_wanted(bag_of):
    bag = bag_of(both(1, (PRIMARY, WRIST, "/camera/overview/image_raw")))
    assert make_plan(bag, {}).cameras == ("primary", "wrist")
    plan = make_plan(bag, {}, cameras=["primary"])
    assert plan.inputs == {PRIMARY: "camera/primary/image_raw"}


@pytest.mark.parametrize("messages, remaps, cameras, words", [
    (both(1, (WRIST,)), [], None, ["no camera primary", "--remap TOPIC:=camera/primary/image_raw",
                                   WRIST]),
    (both(1, (PRIMARY,)), [], ["primary", "wrist"], ["no camera wrist", "cameras:=[primary]"]),
    ([*both(1, (PRIMARY,)), *both(1, (f"{WRIST}/compressed",), compressed)], [], None,
     ["primary as images and wrist as compressed images"]),
    ([*both(1, ("/a" + PRIMARY, "/b" + PRIMARY))], [], None,
     ["/a" + PRIMARY, "/b" + PRIMARY, "choose with --remap"]),
])
def test_what_the_bag_lacks_is_named(messages, remaps, cameras, words, bag_of):
    with pytest.raises(RecordingError) as caught:
        make_plan(bag_of(messages), parse_remaps(remaps), cameras)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("remap, words", [
    ("/nowhere:=joint_states", ["has no such topic", PRIMARY]),
    (f"{PRIMARY}:=camera/primary", ["no such input", "camera/NAME/image_raw"]),
    (f"{PRIMARY}:=joint_states", ["recorded as sensor_msgs/msg/Image",
                                  "sensor_msgs/msg/JointState"]),
    ("no separator", ["recorded_topic:=input_of_vla_node"]),
    (":=joint_states", ["recorded_topic:=input_of_vla_node"]),
])
def test_a_remap_that_fits_nothing_is_named(remap, words, bag_of):
    with pytest.raises(ConfigurationError) as caught:
        make_plan(bag_of(both(1)), parse_remaps([remap]))
    assert all(word in str(caught.value) for word in words), caught.value


def test_two_remaps_to_one_input_are_refused(bag_of):
    with pytest.raises(RecordingError, match="could each be camera/primary/image_raw"):
        make_plan(bag_of(both(1)), parse_remaps([
            f"{WRIST}:=camera/primary/image_raw", f"{PRIMARY}:=camera/primary/image_raw"]))


def test_no_instruction_and_empty_cameras_are_named(bag_of):
    bag = bag_of([*both(1), ("/hint", 1, text("x"))])
    with pytest.raises(RecordingError, match="--instruction TEXT.*strings are on /hint"):
        check_complete(bag, make_plan(bag, {}), None)
    check_complete(bag, make_plan(bag, {}), "lift")
    bag = bag_of([("/instruction", 1, text("lift"))], topics=[(PRIMARY, "sensor_msgs/msg/Image")])
    with pytest.raises(RecordingError, match=f"no message on {PRIMARY}"):
        check_complete(bag, make_plan(bag, {}), None)


# --- time --------------------------------------------------------------------------------------

def events(bag, clock="auto", instruction=None):
    plan = make_plan(bag, {})
    return list(timeline(bag, plan, choose_clock(bag, plan, clock), instruction))


def times(found):
    return [event.ns / 1e9 for event in found if isinstance(event, SetTime)]


def test_the_bags_own_clock(bag_of):
    bag = bag_of([("/clock", 100.0, clock(5.0)), (PRIMARY, 100.0, image(5.0)),
                  ("/clock", 100.1, clock(5.05)), (PRIMARY, 100.2, image(5.05))])
    found = events(bag)
    assert [type(event) for event in found] == [SetTime, Deliver] * 2
    assert times(found) == [5.0, 5.05]
    assert times(events(bag, "recorded")) == [100.0, 100.2]


def test_the_time_of_recording_where_stamps_are_of_that_clock(bag_of):
    bag = bag_of([(PRIMARY, 100.02, image(100.0)), ("/joint_states", 100.02, joints(100.0)),
                  (PRIMARY, 100.08, image(100.05))])
    assert times(events(bag)) == [100.02, 100.08]


def test_stamps_where_they_are_of_another_clock(bag_of):
    bag = bag_of([("/instruction", 1e6, text("lift")), (PRIMARY, 1e6, image(5.0)),
                  ("/joint_states", 1e6 + 1, joints(4.99)),  # late, but of now
                  (PRIMARY, 1e6 + 2, image(5.05)), (PRIMARY, 1e6 + 3, image(0.05))])
    assert times(events(bag)) == [5.0, 5.05, 0.05]  # the last one: time was set back


def test_a_clock_that_was_not_recorded_is_asked_for_in_vain(bag_of):
    with pytest.raises(ConfigurationError, match="--clock bag.*use recorded or stamps"):
        events(bag_of(both(1)), "bag")


def test_inputs_are_delivered_in_the_order_of_recording_and_unchanged(tmp_path):
    path = rewrite(tmp_path / "bag")
    with open_bag(path) as bag:
        plan = make_plan(bag, {})
        sent = [(event.topic, event.raw) for event in events(bag) if isinstance(event, Deliver)]
        recorded = [(plan.inputs[topic], raw) for topic, _, raw in bag.raw(plan.inputs)]
    assert sent == recorded and len(sent) > 50


def test_recorded_calls_of_reset_episode_are_events(bag_of):
    bag = bag_of([("/instruction", 1.0, text("lift")), ("/vla_status", 1.1, status(1, 0, "lift")),
                  *both(2.0, (PRIMARY,)), ("/vla_status", 2.1, status(2, 1, "lift", 1, 1)),
                  *both(3.0, (PRIMARY,))])
    assert [type(event) for event in events(bag, "stamps")] == [
        Deliver, SetTime, Deliver, Reset, SetTime, Deliver]
    replaced = events(bag, "stamps", instruction="place")
    assert [e.topic for e in replaced if isinstance(e, Deliver)] == ["camera/primary/image_raw"] * 2


def test_a_message_that_is_cut_short_is_named(bag_of, tmp_path):
    from bags import STORE
    from rosbags.rosbag2 import StoragePlugin, Writer

    with Writer(tmp_path / "short", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(PRIMARY, "sensor_msgs/msg/Image", typestore=STORE)
        writer.write(connection, 10, b"\0\1\0\0")
    with open_bag(tmp_path / "short") as bag, pytest.raises(RecordingError, match="no header"):
        events(bag, "stamps")
