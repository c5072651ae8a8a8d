"""What vla_node tells about itself: diagnostics, pictures of kept patches, the task in force."""
import math
from collections import Counter

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Path
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from specprune_ros.msg import VlaStatus
from vla_bench import Bench
from vla_rig import INSTRUCTION, URDF

from specprune_ros.ros.conversions import image_to_rgb, stamp_to_ns
from specprune_ros.ros.overlay import depth_of_patches, draw
from specprune_ros.types import CameraTokens, Mode, PruneReport


@pytest.fixture
def bench(ros):
    return Bench(ros).up()


def diagnostics(bench):
    """The next status of each task, by its name."""
    seen = []
    subscription = bench.rig.node.create_subscription(
        DiagnosticArray, "/diagnostics", seen.append, 10)
    bench.rig.until(lambda: seen, again=lambda: None)
    count = len(seen)
    bench.rig.until(lambda: len(seen) > count, again=lambda: None)
    bench.rig.node.destroy_subscription(subscription)
    statuses = {status.name: status for status in seen[-1].status}
    assert len(statuses) == len(seen[-1].status)
    return {name.removeprefix("vla_node: "): status for name, status in statuses.items()}


def values(status):
    return {value.key: value.value for value in status.values}


# --- diagnostics -------------------------------------------------------------------------------

def test_diagnostics_of_a_node_that_works(bench):
    bench.rig.query()
    bench.rig.query()
    tasks = diagnostics(bench)
    assert list(tasks) == ["inputs", "inference", "pruning", "safety", "memory"]
    assert all(task.hardware_id == "policy" for task in tasks.values())
    levels = {name: task.level for name, task in tasks.items()}
    assert levels["safety"] == levels["inference"] == levels["memory"] == DiagnosticStatus.OK
    assert values(tasks["inference"])["chunks"] == "2"
    assert float(values(tasks["inference"])["inference time max (s)"]) > 0
    assert "stage decoder (ms)" in values(tasks["inference"])
    assert values(tasks["inputs"])["camera/wrist age (s)"] == "0"
    assert values(tasks["pruning"])["method"] == "specprune"
    assert values(tasks["pruning"])["mode"] == "fine"
    assert values(tasks["pruning"])["visual tokens kept"] == "5 of 16"
    assert float(values(tasks["memory"])["process (MiB)"]) > 10


def test_diagnostics_of_what_goes_wrong(bench):
    bench.rig.query()
    bench.policy.fail(np.full((8, 7), np.nan))
    bench.rig.observe()
    bench.rig.await_fault(VlaStatus.GUARD)
    tasks = diagnostics(bench)
    assert int(values(tasks["safety"])["rejected"]) >= 1
    assert "nan" in values(tasks["safety"])["last rejection"]
    bench.policy.fail(None)
    bench.rig.query()
    bench.rig.observe(periods=60, images={"wrist": None})
    bench.rig.until(lambda: bench.rig.status.state == VlaStatus.WAITING
                    or "camera/wrist" in bench.rig.status.fault_text)
    tasks = diagnostics(bench)
    assert tasks["inputs"].level == DiagnosticStatus.WARN
    assert "camera/wrist: nothing newer" in tasks["inputs"].message


def test_latched_fault_is_an_error(ros):
    bench = Bench(ros, guard__latch_after=1).up()
    bench.policy.fail(RuntimeError("broken"))
    bench.rig.observe()
    bench.rig.until(lambda: bench.rig.status.latched)
    task = diagnostics(bench)["safety"]
    assert task.level == DiagnosticStatus.ERROR and "broken" in task.message


def test_camera_that_is_slower_than_queries_are_due_is_named(bench):
    bench.rig.query()
    diagnostics(bench)  # rates are counted between two reports
    node = bench.node._diagnostics
    node._received, node._looked_at = Counter(bench.node._engine.planner.received), bench.rig.now
    bench.rig.query(periods=20)  # one picture in a second
    report = node.tasks()["inputs"]()
    assert report.level == DiagnosticStatus.WARN
    assert "camera/primary, camera/wrist" in report.message and "2.5 Hz" in report.message
    assert report.values["camera/primary rate (Hz)"] >= 1.0


def test_what_can_be_told_of_the_mode(bench):
    bench.rig.query()
    bench.rig.query(periods=80)  # ten times as long as between two queries
    report = bench.node._diagnostics.tasks()["pruning"]()
    assert "scores of the previous query were 4 s old" in report.message
    for _ in range(80):
        bench.rig.query()
    report = bench.node._diagnostics.tasks()["pruning"]()
    assert "in fine mode for 3" in report.message
    bench.policy.mode = Mode.COARSE
    actions = np.zeros((8, 7))
    actions[:, 6] = [1, 1, 1, 1, 0, 0, 0, 0]
    bench.policy.fault = actions
    bench.rig.query()
    report = bench.node._diagnostics.tasks()["pruning"]()
    assert "approach was missed" in report.message
    assert report.values["approaches missed"] == 1
    assert "in fine mode" not in report.message


# --- kept patches --------------------------------------------------------------------------------

def report_of(grid, seed, cameras=("primary", "wrist"), layers=6):
    """A report with random kept sets that shrink from layer to layer."""
    rng = np.random.default_rng(seed)
    count = grid * grid
    total = 1 + len(cameras) * count + 30  # BOS, patches, text
    kept, alive = [], np.arange(total)
    for _ in range(layers):
        kept.append(alive)
        alive = np.sort(rng.choice(alive, max(1, int(0.7 * len(alive))), replace=False))
    tokens = tuple(CameraTokens(name, count, 0, 0, 0, count) for name in cameras)
    return PruneReport("specprune", Mode.COARSE, 1, tuple(kept), tokens)


@pytest.mark.parametrize("seed", range(5))
def test_depth_is_the_share_of_layers_that_kept_the_patch(seed):
    report = report_of(8, seed)
    depth = depth_of_patches(report)
    for index, camera in enumerate(("primary", "wrist")):
        for row in range(8):
            for column in range(8):
                position = 1 + index * 64 + row * 8 + column
                layers = sum(position in kept for kept in report.kept_positions)
                assert depth[camera][row, column] == pytest.approx(layers / 6)


def test_report_without_a_grid_has_no_picture():
    tokens = (CameraTokens("primary", 8, 0, 0, 0, 8),)
    assert depth_of_patches(PruneReport("x", Mode.COARSE, 0, (np.arange(9),), tokens)) == {}


@pytest.mark.parametrize("cropped", [True, False])
@pytest.mark.parametrize("shape", [(224, 224), (480, 640), (2160, 3840)])
def test_patches_are_drawn_where_the_policy_sees_them(shape, cropped):
    grid = 8
    depth = np.zeros((grid, grid))
    depth[2, 5] = 1.0
    picture = draw(np.full((*shape, 3), 200, np.uint8), depth, cropped)
    assert max(picture.shape[:2]) <= 640
    bright = np.argwhere(picture[:, :, 0] == 200)
    side = math.sqrt(0.9) if cropped else 1.0
    for axis, index in ((0, 2), (1, 5)):
        length = picture.shape[axis]
        first, last = ((1 - side) / 2 + side * (index + k) / grid for k in (0, 1))
        assert abs(bright[:, axis].min() - first * length) <= 1
        assert abs(bright[:, axis].max() + 1 - last * length) <= 1
    corner = picture[0, 0, 0]
    assert corner == (20 if cropped else 50)  # outside of what the policy sees, or pruned


def test_overlay_is_made_only_where_somebody_looks(bench, monkeypatch):
    from specprune_ros.ros import vla_outputs

    drawn = []
    monkeypatch.setattr(vla_outputs, "draw", lambda *a: drawn.append(1) or draw(*a))
    report = report_of(4, 0)
    bench.policy.report = report
    bench.rig.query()
    assert drawn == []
    pictures = []
    bench.rig.node.create_subscription(Image, "camera/wrist/kept_patches", pictures.append,
                                       qos_profile_sensor_data)
    bench.rig.until(lambda: bench.node.count_subscribers("camera/wrist/kept_patches") == 1)
    bench.rig.until(lambda: pictures, again=bench.rig.observe)
    picture = pictures[-1]
    assert picture.header.frame_id == "wrist_optical_frame"
    # The policy's time counts from the first frame of the episode.
    asked_first, answered_first = bench.policy.observations[0], bench.rig.chunks[0]
    origin = stamp_to_ns(answered_first.header.stamp) - round(asked_first.stamp * 1e9)
    asked = {origin + round(o.stamp * 1e9): o.images["wrist"] for o in bench.policy.observations}
    expected = draw(asked[stamp_to_ns(picture.header.stamp)], depth_of_patches(report)["wrist"],
                    True)
    np.testing.assert_array_equal(image_to_rgb(picture), expected)
    assert len(drawn) == len(pictures)  # of one camera only


# --- the task ------------------------------------------------------------------------------------

def test_task_can_be_set_as_a_parameter_and_shows_what_the_topic_said(bench):
    bench.rig.query()
    assert bench.node.get_parameter("instruction").value == INSTRUCTION
    assert bench.rig.status.parameter_revision == 0
    bench.set(instruction="push the plate")
    bench.rig.until(lambda: bench.rig.chunks[-1].instruction == "push the plate")
    assert bench.rig.chunks[-1].episode == 1
    result = bench.rig.set_parameter("instruction", "  ")
    assert not result.successful and "natural language" in result.reason
    bench.rig.instruct("open the gripper")
    bench.rig.until(lambda: bench.rig.chunks[-1].instruction == "open the gripper")
    assert bench.node.get_parameter("instruction").value == "open the gripper"


def test_task_of_the_parameter_file_needs_no_topic(ros):
    bench = Bench(ros, instruction="push the plate")
    assert bench.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert bench.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    bench.rig.describe(URDF)
    chunk, _ = bench.rig.query()
    assert chunk.instruction == "push the plate"


# --- the path of the tool ------------------------------------------------------------------------

def test_path_of_the_tool_is_that_of_the_episode(bench):
    bench.rig.query(slide=0.1)
    paths = []
    bench.rig.node.create_subscription(Path, "tool_path", paths.append, 10)
    bench.rig.until(lambda: bench.node.count_subscribers("tool_path") == 1)
    stamps = [stamp_to_ns(bench.rig.chunks[-1].header.stamp)]
    for slide in (0.2, 0.3):
        stamps.append(bench.rig.observe(slide=slide))
        bench.rig.await_chunk(stamps[-1])
    bench.rig.until(lambda: paths and len(paths[-1].poses) == 3)
    path = paths[-1]
    assert path.header.frame_id == path.poses[0].header.frame_id == "panda_link0"
    assert [stamp_to_ns(pose.header.stamp) for pose in path.poses] == stamps
    assert [pose.pose.position.x for pose in path.poses] == pytest.approx([0.1, 0.2, 0.3])
    assert path.poses[0].pose.position.z == pytest.approx(0.5)
    orientation = path.poses[0].pose.orientation
    assert orientation.x**2 + orientation.y**2 + orientation.z**2 + orientation.w**2 == (
        pytest.approx(1.0))
    bench.rig.reset()
    bench.rig.until(lambda: len(paths[-1].poses) == 1, again=bench.rig.observe)
