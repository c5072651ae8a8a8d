"""vla_node as it is shipped, in another process, with the shipped checkpoint, over DDS."""
import numpy as np
import pytest
from specprune_ros.msg import ActionChunk, VlaStatus
from vla_rig import INSTRUCTION, PERIOD, URDF, VLA_NODE, Rig, rows

from specprune_ros.policy import Observation, load_policy
from specprune_ros.robot.guard import saturate
from specprune_ros.ros.conversions import image_to_rgb
from specprune_ros.share import checkpoint_dir

FAST, STILL = 0.5, 0.0  # m/s


@pytest.fixture(scope="module")
def vla(module_ros, module_processes):
    """The world around a node that runs through the whole module, as a robot's does."""
    rig = Rig(module_ros)
    process = module_processes.start(*VLA_NODE)
    rig.await_state(VlaStatus.WAITING)
    rig.start()
    rig.query()
    yield rig
    assert process.poll() is None, process.log.read_text()


@pytest.fixture
def running(vla):
    """The node in a fresh episode, with one query done."""
    vla.start()
    vla.reset()
    vla.query()
    vla.await_state(VlaStatus.RUNNING)
    return vla


# --- what a query gives ------------------------------------------------------------------------

def test_chunks_stats_and_status(vla):
    vla.reset()
    first, first_stats = vla.query()
    assert (first.horizon, first.dof, first.query_number) == (8, 7, 0)
    assert np.isfinite(rows(first)).all()
    assert first.instruction == INSTRUCTION
    assert first_stats.dense_refresh
    assert list(first_stats.tokens_in) == list(first_stats.kept_static) == [256, 256]
    chunk, stats = vla.query()
    assert (chunk.episode, chunk.query_number) == (first.episode, 1)
    assert list(stats.cameras) == ["primary", "wrist"]
    assert stats.method == "specprune" and not stats.dense_refresh
    for camera in range(2):
        sets = (stats.kept_global[camera], stats.kept_dynamic[camera], stats.kept_local[camera])
        assert max(sets) <= stats.kept_static[camera] <= sum(sets) < 256
    assert stats.tokens_per_layer[-1] < stats.tokens_per_layer[0] == (
        first_stats.tokens_per_layer[-1])
    assert 0 < stats.flops < stats.dense_flops == first_stats.flops
    assert sum(stats.stage_times) <= chunk.inference_time
    vla.until(lambda: vla.status.chunks == len(vla.chunks))  # counted at least twice a second
    status = vla.await_state(VlaStatus.RUNNING)
    assert status.instruction == INSTRUCTION
    assert status.queries >= status.chunks
    assert list(status.input_ages) == [0.0, 0.0, 0.0]  # by header stamp on the simulated clock


def test_chunk_is_what_the_python_api_gives(vla):
    vla.reset()
    chunk, _ = vla.query(slide=0.3, turn=0.0, fingers=(0.04, 0.03))
    images = {camera: image_to_rgb(vla.picture(camera)) for camera in ("primary", "wrist")}
    proprio = np.array([0.3, 0.0, 0.5, np.pi, 0.0, 0.0, 0.04, -0.03])
    expected = load_policy(checkpoint_dir()).predict(Observation(images, INSTRUCTION, proprio))
    np.testing.assert_allclose(rows(chunk), saturate(expected.actions), atol=1e-5)


def test_the_same_observation_gives_the_same_actions(vla):
    vla.reset()
    chunk, _ = vla.query()
    vla.reset()
    vla.observe(periods=0)  # not older than the reset
    vla.until(lambda: vla.chunks[-1].episode == chunk.episode + 1)
    again = vla.chunks[-1]
    assert again.header.stamp == chunk.header.stamp
    np.testing.assert_array_equal(rows(again), rows(chunk))


def test_arm_that_moves_changes_the_mode(running):
    modes = []
    for speed in (FAST, FAST, STILL, STILL, FAST, FAST):
        chunk, stats = running.query(slide_speed=speed)
        assert stats.mode == chunk.mode
        modes.append(chunk.mode)
    assert stats.translational_speed == pytest.approx(FAST, rel=0.01)
    assert (modes[1], modes[3], modes[5]) == (
        ActionChunk.COARSE, ActionChunk.FINE, ActionChunk.COARSE)


def test_mode_follows_differenced_positions_too(running):
    modes, slide = [], 0.0
    for step in (0.2, 0.2, 0.0, 0.0):  # m per 0.4 s
        slide += step
        chunk, _ = running.query(slide=slide, slide_speed=None)
        modes.append(chunk.mode)
    assert (modes[1], modes[3]) == (ActionChunk.COARSE, ActionChunk.FINE)


def test_budget_that_is_changed_live_changes_what_is_kept(running):
    _, before = running.query()
    assert running.set_parameter("budgets.scene.coarse.local", 4).successful
    _, stats = running.query(slide_speed=FAST)
    _, stats = running.query(slide_speed=FAST)
    assert stats.method == "custom" and stats.mode == ActionChunk.COARSE
    assert stats.parameter_revision == before.parameter_revision + 1
    # Of each of the two speculation layers.
    assert stats.kept_local[0] <= 2 * 4 < before.kept_local[0]
    refused = running.set_parameter("budgets.scene.fine.local", 3)
    assert not refused.successful and "fine" in refused.reason
    assert running.set_parameter("pruning", "specprune").successful
    _, stats = running.query()
    assert stats.method == "specprune"


def test_shadow_query_measures_the_distance_from_dense(running):
    assert running.set_parameter("shadow.every", 1).successful
    _, stats = running.query()
    assert 0 < stats.shadow_distance < 2
    assert running.set_parameter("pruning", "off").successful
    _, stats = running.query()
    assert np.isnan(stats.shadow_distance)
    for name, value in (("shadow.every", 0), ("pruning", "specprune")):
        assert running.set_parameter(name, value).successful


def test_arm_that_slows_down_gets_a_query_before_its_time(running):
    assert running.set_parameter("controller.replan", True).successful
    for _ in range(2):
        chunk, _ = running.query(slide_speed=FAST)
    assert chunk.mode == ActionChunk.COARSE
    due = chunk.header.stamp.sec * 10**9 + chunk.header.stamp.nanosec + 8 * PERIOD
    sent = len(running.chunks)
    for _ in range(6):
        running.observe(periods=1, slide_speed=STILL)
        frames = running.status.images_received
        running.until(lambda f=frames: running.status.images_received > f)
    running.until(lambda: len(running.chunks) > sent)
    early = running.chunks[sent]
    assert early.mode == ActionChunk.FINE
    assert early.header.stamp.sec * 10**9 + early.header.stamp.nanosec < due
    assert running.set_parameter("pruning", "specprune").successful  # and off again


# --- bad input: named, survived, over as soon as the input is good -----------------------------

@pytest.mark.parametrize("change, words", [
    ({"encoding": "yuv422_yuy2"}, ["camera/primary", "yuv422_yuy2", "Publish rgb8"]),
    ({"step": 100}, ["camera/primary", "step is 100", "192"]),
    ({"data": b"cut short"}, ["camera/primary", "9 bytes", "truncated"]),
])
def test_bad_picture(running, change, words):
    before = so_far(running)
    running.observe(images={"primary": change})
    running.await_fault(VlaStatus.IMAGE, *words)
    assert_no_chunk_since(running, before)
    assert_works_again(running)


@pytest.mark.parametrize("change, words", [
    ({"name": ["slide", "turn"], "position": [0.1, 0.2], "velocity": [0.0, 0.0]},
     ["panda_finger_joint1"]),
    ({"name": ["a", "b", "c", "d"]}, ["slide", "turn"]),
    ({"position": [float("nan"), 0.2, 0.04, 0.03]}, ["slide = nan"]),
    ({"velocity": [0.0, float("nan"), 0.0, 0.0]}, ["velocity", "turn = nan"]),
    ({"position": [0.1, 0.2, 0.04]}, ["4 names and 3 position values"]),
])
def test_bad_joint_states(running, change, words):
    before = so_far(running)
    running.now += 8 * PERIOD
    message = running.joints()
    for name, value in change.items():
        setattr(message, name, value)
    running.observe(periods=0, joints=message)
    running.await_fault(VlaStatus.JOINT_STATE, "joint_states", *words)
    assert_no_chunk_since(running, before)
    assert_works_again(running)


def test_empty_instruction(running):
    episode = running.chunks[-1].episode
    before = so_far(running)
    running.instruct("  ")
    running.await_fault(VlaStatus.INSTRUCTION, "empty", "natural language")
    running.observe()
    assert running.status.instruction == ""
    assert_no_chunk_since(running, before)
    running.instruct("open the gripper")
    assert_works_again(running)
    assert running.chunks[-1].instruction == "open the gripper"
    assert running.chunks[-1].episode > episode


@pytest.mark.parametrize("urdf, words", [
    ("<robot", ["XML"]),
    ("<robot name='r'><link name='base'/></robot>", ["panda_link0", "base"]),
    ("", ["XML"]),
])
def test_broken_robot_description(running, urdf, words):
    before = so_far(running)
    running.describe(urdf)
    running.await_fault(VlaStatus.ROBOT_DESCRIPTION, "robot_description", *words)
    running.observe()
    assert_no_chunk_since(running, before)
    running.describe(URDF)
    assert_works_again(running)


def so_far(rig):
    return len(rig.chunks), rig.status.faults


def assert_no_chunk_since(rig, before):
    """Wait until the bad input has come several times: the node is up, and says it once."""
    received = rig.status.images_received
    rig.until(lambda: rig.status.images_received > received)
    chunks, faults = before
    assert len(rig.chunks) == chunks
    assert rig.status.faults == faults + 1


def assert_works_again(rig):
    chunk, _ = rig.query()
    status = rig.await_state(VlaStatus.RUNNING)
    assert (status.fault_code, status.fault_text) == (VlaStatus.NONE, "")
    assert np.isfinite(rows(chunk)).all()
