"""ROS 2 bags to recordings: MCAP and SQLite, encodings, gaps, episodes, the arm."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from streams import run

from specprune_ros import cli
from specprune_ros.analysis.bag_to_npz import ArmOptions, convert
from specprune_ros.analysis.recording import Recording, load_recordings
from specprune_ros.errors import JointStateError, RecordingError
from specprune_ros.robot.kinematics import ArmKinematics

STORE = get_typestore(Stores.ROS2_HUMBLE)
MESSAGES = STORE.types
NANO = 1_000_000_000
PRIMARY, WRIST = "/camera/primary/image_raw", "/camera/wrist/image_raw"

URDF = """<robot name="arm"><link name="base_link"/><link name="hand"/><link name="finger"/>
  <joint name="shoulder" type="revolute"><parent link="base_link"/><child link="hand"/>
    <origin xyz="0 0 1"/><axis xyz="0 0 1"/>
    <limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
  <joint name="grip" type="prismatic"><parent link="hand"/><child link="finger"/>
    <axis xyz="0 1 0"/><limit lower="0" upper="1" effort="1" velocity="1"/></joint></robot>"""


def header(seconds: float):
    stamp = MESSAGES["builtin_interfaces/msg/Time"](
        sec=int(seconds), nanosec=round((seconds - int(seconds)) * NANO))
    return MESSAGES["std_msgs/msg/Header"](stamp=stamp, frame_id="")


def picture(value: int, side: int = 8) -> np.ndarray:
    """A gradient in red, ``value`` in green, nothing in blue."""
    image = np.zeros((side, side, 3), np.uint8)
    image[..., 0] = np.arange(side) * 10
    image[..., 1] = value
    return image


def image(seconds: float, rgb: np.ndarray, encoding: str = "rgb8", padding: int = 0):
    pixels = {
        "rgb8": rgb, "bgr8": rgb[..., ::-1],
        "rgba8": np.dstack([rgb, np.full(rgb.shape[:2], 9, np.uint8)]),
        "bgra8": np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 9, np.uint8)]),
        "mono8": rgb[..., :1],
    }.get(encoding, rgb)
    rows = pixels.reshape(len(rgb), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return MESSAGES["sensor_msgs/msg/Image"](
        header=header(seconds), height=len(rgb), width=rgb.shape[1], encoding=encoding,
        is_bigendian=0, step=rows.shape[1], data=rows.reshape(-1))


def compressed(seconds: float, rgb: np.ndarray):
    _, data = cv2.imencode(".png", rgb[..., ::-1])
    return MESSAGES["sensor_msgs/msg/CompressedImage"](
        header=header(seconds), format="png", data=data.reshape(-1))


def joints(seconds: float, position: float, velocity: float | None = 0.0,
           names=("shoulder", "grip")):
    velocities = [] if velocity is None else [velocity, 0.0]
    return MESSAGES["sensor_msgs/msg/JointState"](
        header=header(seconds), name=list(names), position=np.array([position, 0.25]),
        velocity=np.array(velocities), effort=np.array([]))


def text(value: str):
    return MESSAGES["std_msgs/msg/String"](data=value)


def write(path, messages, storage=StoragePlugin.MCAP):
    """messages: [(topic, message)] in the order of recording, a millisecond apart."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        connections = {}
        for number, (topic, message) in enumerate(messages):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], 10**15 + number * 10**6,
                         STORE.serialize_cdr(message, kind))
    return path


def episode(start: float, steps: int, first: int = 0, period: float = 0.05):
    """Joint states, then both cameras, once per period; the green of a picture counts steps."""
    for step in range(steps):
        stamp = start + step * period
        yield "/joint_states", joints(stamp, 0.1 * step, 2.0)
        yield PRIMARY, image(stamp, picture(first + step))
        yield WRIST, image(stamp, picture(first + step + 100))


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_bag_of_one_episode(storage, tmp_path):
    bag = write(tmp_path / "bag", [("/instruction", text("lift the cube")), *episode(100.0, 5)],
                storage)
    run("bag-to-npz", bag, tmp_path / "out")
    (recording,) = load_recordings(tmp_path / "out")
    assert recording.cameras == ("primary", "wrist") and recording.instruction == "lift the cube"
    np.testing.assert_allclose(recording.stamps, [0.0, 0.05, 0.1, 0.15, 0.2])
    np.testing.assert_array_equal(recording.frames[3, 0], picture(3))
    np.testing.assert_array_equal(recording.frames[3, 1], picture(103))
    assert recording.joint_names == ("shoulder", "grip")
    np.testing.assert_allclose(recording.joint_positions[:, 0], 0.1 * np.arange(5))
    assert (recording.joint_velocities[:, 0] == 2.0).all()
    assert recording.proprio is recording.ee_twists is recording.actions is None
    assert recording.source == "bag bag" and recording.success is None


def test_a_file_for_one_episode(tmp_path):
    bag = write(tmp_path / "bag", [("/instruction", text("lift")), *episode(0.5, 3)])
    run("bag-to-npz", bag, tmp_path / "one.npz")
    assert Recording.load(tmp_path / "one.npz").steps == 3


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_encodings_and_padded_rows(encoding, tmp_path):
    bag = write(tmp_path / "bag", [
        (PRIMARY, image(0.05 * n + 1, picture(n), encoding, padding=5)) for n in range(3)])
    (recording,) = convert(bag, {}, instruction="look")
    expected = picture(2)
    if encoding == "mono8":
        expected = np.repeat(expected[..., :1], 3, axis=2)
    np.testing.assert_array_equal(recording.frames[2, 0], expected)
    assert recording.joint_positions is None


def test_compressed_pictures(tmp_path):
    topic = PRIMARY + "/compressed"
    bag = write(tmp_path / "bag", [(topic, compressed(0.05 * n + 1, picture(n)))
                                   for n in range(3)])
    (recording,) = convert(bag, {}, instruction="look")
    np.testing.assert_array_equal(recording.frames[1, 0], picture(1))


def test_cameras_of_other_rates_meet_at_the_control_rate(tmp_path):
    """30 Hz and 10 Hz at 20 Hz: the nearest picture, repeated where there is no newer one."""
    scene = [(n / 30, PRIMARY, n) for n in range(31)]
    wrist = [(n / 10 + 0.01, WRIST, n) for n in range(10)]
    bag = write(tmp_path / "bag", [
        (topic, image(5 + stamp, picture(value))) for stamp, topic, value in sorted(scene + wrist)])
    (recording,) = convert(bag, {}, instruction="look")
    times = recording.stamps + 0.01  # of the first wrist picture
    assert recording.steps == 19 and times[-1] == pytest.approx(0.91)
    green = recording.frames[:, :, 0, 0, 1].astype(int)
    for time, (seen_scene, seen_wrist) in zip(times, green):
        assert abs(seen_scene / 30 - time) <= 1 / 60 + 1e-6
        assert abs(seen_wrist / 10 + 0.01 - time) <= 0.05 + 1e-6


def test_instruction_gap_and_clock_set_back_each_begin_an_episode(tmp_path):
    bag = write(tmp_path / "bag", [
        *episode(10.0, 2),  # recorded before the first instruction arrived: it counts
        ("/instruction", text("first")), *episode(10.1, 2, first=2),
        ("/instruction", text("first")), *episode(10.2, 1, first=4),  # the same text again
        ("/instruction", text("second")), *episode(10.25, 3, first=10),
        *episode(20.0, 3, first=20),  # a pause
        *episode(0.5, 3, first=30),  # simulated time began anew
        *episode(30.0, 1),  # too short
    ])
    recordings = convert(bag, {})
    assert [(r.instruction, r.steps) for r in recordings] == [
        ("first", 5), ("second", 3), ("second", 3), ("second", 3)]
    assert [int(r.frames[0, 0, 0, 0, 1]) for r in recordings] == [0, 10, 20, 30]
    for recording in recordings:
        assert recording.stamps[0] == 0.0
        np.testing.assert_allclose(recording.joint_positions[0, 0], 0.0)


def test_arm_from_the_recorded_description(tmp_path):
    bag = write(tmp_path / "bag", [
        ("/robot_description", text(URDF)), ("/instruction", text("turn")), *episode(1.0, 4)])
    arm = ArmOptions("base_link", "hand", None, ("grip",), (2.0,))
    (recording,) = convert(bag, {}, arm=arm)
    kinematics = ArmKinematics.from_urdf(URDF, "base_link", "hand")
    expected = kinematics.twist({"shoulder": 0.1}, {"shoulder": 2.0})
    np.testing.assert_allclose(recording.ee_twists, np.tile(expected, (4, 1)), atol=1e-12)
    assert recording.proprio.shape == (4, 7)
    np.testing.assert_allclose(recording.proprio[:, :3], np.tile([0, 0, 1], (4, 1)), atol=1e-12)
    np.testing.assert_allclose(recording.proprio[:, 6], 0.5)  # 0.25 m times two


def test_arm_through_the_command(tmp_path):
    (tmp_path / "arm.urdf").write_text(URDF)
    bag = write(tmp_path / "bag", [("/instruction", text("turn")), *episode(1.0, 3)])
    run("bag-to-npz", bag, tmp_path / "out", "--tool-frame", "hand", "--urdf",
        tmp_path / "arm.urdf", "--gripper-joints", "grip", "--gripper-scale", 1)
    (recording,) = load_recordings(tmp_path / "out")
    assert recording.ee_twists[1, 5] == pytest.approx(2.0)


def test_a_recording_from_a_bag_can_be_replayed(dense, tmp_path):
    """Without proprio the policy leaves the token out, without twists it takes its commands."""
    from specprune_ros.analysis.replay import replay

    bag = write(tmp_path / "bag", [("/instruction", text("lift")), *episode(1.0, 10)])
    (recording,) = convert(bag, {}, size=32)
    chunks = [chunk for _, chunk in replay(dense.with_pruning("specprune"), recording)]
    assert len(chunks) == 2 and chunks[1].report.visual_tokens_kept < 512


# What can be wrong -------------------------------------------------------------------------


def test_missing_bag_and_broken_bag(tmp_path):
    with pytest.raises(RecordingError, match="does not exist"):
        convert(tmp_path / "none", {})
    bag = write(tmp_path / "bag", [("/instruction", text("x")), *episode(1.0, 3)])
    (bag / "metadata.yaml").write_text("{nonsense")
    with pytest.raises(RecordingError, match="cannot be read|is no ROS 2 bag"):
        convert(bag, {})


@pytest.mark.parametrize("messages, options, error, message", [
    ([(PRIMARY, image(n, picture(0))) for n in (1, 1.05)], {}, RecordingError,
     "give --instruction TEXT"),
    ([("/front/image", image(n, picture(0))) for n in (1, 1.05)], {"instruction": "x"},
     RecordingError, "--camera primary=TOPIC; images are on: /front/image"),
    ([(PRIMARY, image(n, picture(0))) for n in (1, 1.05)],
     {"instruction": "x", "cameras": {"primary": "/other"}}, RecordingError,
     "no images on /other; on: /camera/primary"),
    ([("/instruction", text("x")), ("/b/instruction", text("y")),
      *episode(1.0, 2)], {}, RecordingError, "choose one with --instruction-topic"),
    ([("/joint_states", joints(1, 0)), ("/b/joint_states", joints(1, 0)),
      *episode(1.0, 2)], {"instruction": "x"}, RecordingError, "choose one with --joint-states"),
    ([(PRIMARY, image(n, picture(0), "yuv422")) for n in (1, 1.05)], {"instruction": "x"},
     RecordingError, "message 0: encoding 'yuv422' is not one of rgb8"),
    ([(PRIMARY, image(1, picture(0))), (PRIMARY, image(1.05, picture(0)))],
     {"instruction": "x", "min_steps": 3}, RecordingError, "holds no episode of 3 steps"),
    ([(t, image(n, picture(0, side))) for n in (1, 1.05)
      for t, side in ((PRIMARY, 8), (WRIST, 16))], {"instruction": "x"}, RecordingError,
     r"differ in size \(primary 8x8, wrist 16x16\): give --size"),
    ([*episode(1.0, 2)],
     {"instruction": "x", "arm": ArmOptions("base_link", "hand", None, (), ())}, RecordingError,
     "has no robot_description: give --urdf"),
    ([(PRIMARY, image(n, picture(0))) for n in (1, 1.05)],
     {"instruction": "x", "arm": ArmOptions("base_link", "hand", URDF, (), ())}, JointStateError,
     "no joint states were recorded"),
    ([*episode(1.0, 1), ("/joint_states", joints(1.05, 0, names=("a", "b"))),
      *list(episode(1.05, 1))[1:]], {"instruction": "x"}, JointStateError,
     "shoulder, grip first and a, b later"),
])
def test_what_is_wrong_is_named(messages, options, error, message, tmp_path):
    bag = write(tmp_path / "bag", messages)
    with pytest.raises(error, match=message):
        convert(bag, options.pop("cameras", {}), **options)


def test_a_truncated_picture_is_named(tmp_path):
    broken = image(1.05, picture(0))
    broken.data = broken.data[:-1]
    bag = write(tmp_path / "bag", [(PRIMARY, image(1, picture(0))), (PRIMARY, broken)])
    with pytest.raises(RecordingError, match="message 1: .*191 bytes of data"):
        convert(bag, {}, instruction="x")


def test_wrong_options_are_named(tmp_path, capsys):
    bag = write(tmp_path / "bag", [*episode(1.0, 2), *episode(9.0, 2)])
    for extra, message in (
        (["--camera", "primary"], "write NAME=TOPIC"),
        (["--control-period", "0"], "--control-period must be > 0"),
        (["--instruction", "x"], "holds 2 episodes: name a folder"),
    ):
        assert cli.main(["bag-to-npz", str(bag), str(tmp_path / "a.npz"), *extra]) == 1
        assert message in capsys.readouterr().err
