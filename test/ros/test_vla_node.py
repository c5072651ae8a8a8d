"""vla_node in this process with a policy that has no network: what goes in, what comes out."""
import gc
import math
import weakref

import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from specprune_ros.msg import ActionChunk, VlaStatus
from vla_bench import Bench, Loader
from vla_rig import INSTRUCTION, PERIOD, URDF, rows

from specprune_ros.errors import CheckpointError, InferenceError
from specprune_ros.ros import qos
from specprune_ros.ros.conversions import ns_to_stamp, stamp_to_ns
from specprune_ros.ros.engine import Engine
from specprune_ros.ros.vla_node import VlaNode
from specprune_ros.types import Mode


@pytest.fixture
def bench(ros):
    return Bench(ros).up()


# --- chunks and stats --------------------------------------------------------------------------

def test_chunk_carries_the_actions_and_their_meaning(bench):
    stamp = bench.rig.observe()
    chunk, _ = bench.rig.await_chunk(stamp)
    np.testing.assert_array_equal(rows(chunk), np.arange(56).reshape(8, 7) / 100)
    assert (chunk.dt, chunk.horizon, chunk.dof) == (0.05, 8, 7)
    assert list(chunk.names) == ["x", "y", "z", "rx", "ry", "rz", "gripper"]
    assert list(chunk.unit_scale) == [0.05] * 3 + [0.5] * 3 + [1.0]
    assert chunk.action_space == ActionChunk.EE_DELTA_POSE
    assert chunk.gripper_convention == ActionChunk.ZERO_CLOSE_ONE_OPEN
    assert chunk.header.frame_id == "panda_link0"
    assert (chunk.instruction, chunk.query_number, chunk.mode) == (INSTRUCTION, 0, Mode.FINE)
    assert chunk.inference_time > 0


def test_stats_are_those_of_the_report(bench):
    chunk, stats = bench.rig.query()
    assert stats.header == chunk.header
    assert list(stats.cameras) == ["primary", "wrist"]
    assert list(stats.tokens_in) == [8, 8]
    assert list(stats.kept_global) == [3, 2]
    assert list(stats.kept_dynamic) == [2, 2]
    assert list(stats.kept_local) == [1, 2]
    assert list(stats.kept_static) == [5, 6]
    assert list(stats.dynamic_layers) == [1, 2]
    assert list(stats.kept_after_dynamic) == [4, 5, 3, 2]  # layer by layer, then camera
    assert list(stats.visual_tokens_per_layer) == [8, 8, 8, 3, 8, 0]  # layer by layer, then camera
    assert list(stats.tokens_per_layer) == [20, 12, 9]
    assert stats.translational_speed == 0.5
    assert stats.rotational_speed == 0.25
    assert stats.vertical_velocity == -0.1
    assert dict(zip(stats.threshold_names, stats.threshold_values)) == {"tau_scene": 0.9}
    assert list(stats.stage_names) == ["preprocess", "decoder"]
    assert list(stats.stage_times) == pytest.approx([0.001, 0.02])
    assert (stats.flops, stats.dense_flops, stats.dense_refresh) == (10.0, 40.0, True)
    assert stats.observation_age == 0.0  # the simulated clock stands still during a query


def test_policy_gets_the_pictures_the_task_and_the_state_of_the_arm(bench):
    bench.rig.query(slide=0.3, turn=0.0, fingers=(0.04, 0.03), slide_speed=0.25)
    observation = bench.policy.observations[-1]
    assert list(observation.images) == ["primary", "wrist"]
    picture = bench.rig.picture("wrist")
    expected = np.frombuffer(picture.data, np.uint8).reshape(64, 64, 3)
    np.testing.assert_array_equal(observation.images["wrist"], expected)
    assert observation.instruction == INSTRUCTION
    assert observation.stamp == 0.0  # the policy's time begins with the episode
    # The tool is 0.3 m along x, 0.5 m up and upside down; the second finger counts negative.
    np.testing.assert_allclose(
        observation.proprio, [0.3, 0, 0.5, math.pi, 0, 0, 0.04, -0.03], atol=1e-9)
    np.testing.assert_allclose(observation.ee_twist, [0.25, 0, 0, 0, 0, 0], atol=1e-12)


def test_velocity_is_differenced_where_the_driver_reports_none(bench):
    bench.rig.query(slide=0.0, slide_speed=None)
    assert bench.policy.observations[-1].ee_twist is None
    bench.rig.query(slide=0.04, slide_speed=None)
    # The first velocity that is known has no past to be filtered with.
    assert bench.policy.observations[-1].ee_twist[0] == pytest.approx(0.04 / 0.4)


def test_queries_follow_replan_steps_and_frames_between_feed_the_ring(bench):
    first = bench.rig.observe()
    bench.rig.await_chunk(first)
    for count in range(1, 8):
        bench.rig.observe(periods=1)
        frames = bench.policy.episodes[-1]["frames"]
        bench.rig.until(lambda n=count, f=frames: len(f) == n)
    last = bench.rig.observe(periods=1)
    bench.rig.await_chunk(last)
    # Seconds since the first picture of the episode, to the last bit.
    assert [o.stamp for o in bench.policy.observations] == [0.0, 0.4]
    assert bench.policy.episodes[-1]["frames"] == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    assert last - first == 8 * PERIOD


def test_pictures_are_turned_upright(ros):
    bench = Bench(ros, camera_rotation=[180, 90]).up()
    bench.rig.query()
    images = bench.policy.observations[-1].images
    for camera, turns in (("primary", 2), ("wrist", -1)):
        sent = np.frombuffer(bench.rig.picture(camera).data, np.uint8).reshape(64, 64, 3)
        np.testing.assert_array_equal(images[camera], np.rot90(sent, turns))


def test_compressed_pictures(ros):
    bench = Bench(ros, image_transport="compressed", cameras=["primary"],
                  camera_rotation=[0]).up()
    bench.rig.query()
    assert bench.policy.observations[-1].images["primary"].shape == (64, 64, 3)
    bench.rig.observe(images={"primary": {"data": b"no picture"}})
    bench.rig.await_fault(VlaStatus.IMAGE, "camera/primary", "jpeg or png")
    bench.rig.query()
    bench.rig.await_state(VlaStatus.RUNNING)


def test_without_proprio_no_arm_is_needed(ros):
    bench = Bench(ros, use_proprio="off")
    assert bench.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert bench.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    bench.rig.instruct(INSTRUCTION)
    bench.rig.query()
    assert bench.policy.observations[-1].proprio is None
    assert bench.policy.observations[-1].ee_twist is None
    bench.rig.await_state(VlaStatus.RUNNING)


# --- episodes ----------------------------------------------------------------------------------

def test_new_instruction_starts_an_episode_from_the_last_pictures(bench):
    chunk, _ = bench.rig.query()
    bench.rig.instruct("push the plate")
    bench.rig.until(lambda: bench.rig.chunks[-1].instruction == "push the plate")
    again = bench.rig.chunks[-1]
    assert again.header.stamp == chunk.header.stamp
    assert again.episode > chunk.episode
    assert again.query_number == 0


def test_the_same_instruction_again_changes_nothing(bench):
    chunk, _ = bench.rig.query()
    bench.rig.instruct(f" {INSTRUCTION} ")
    later, _ = bench.rig.query()
    assert (later.episode, later.query_number) == (chunk.episode, 1)


def test_reset_episode_starts_from_pictures_taken_afterwards(bench):
    chunk, _ = bench.rig.query()
    answer = bench.rig.reset()
    assert answer.success
    assert answer.message == f"episode {chunk.episode + 1} from {bench.rig.now / 1e9:.9f} s"
    later, _ = bench.rig.query(periods=1)
    assert (later.episode, later.query_number) == (chunk.episode + 1, 0)
    assert len(bench.policy.episodes) == 2


def test_result_of_a_query_that_a_reset_overtook_is_dropped(bench):
    bench.policy.gate.clear()
    bench.rig.observe()
    bench.rig.until(bench.policy.entered.is_set)
    bench.rig.reset()
    bench.policy.gate.set()
    chunk, _ = bench.rig.query()
    assert chunk.episode == 1
    assert [c.episode for c in bench.rig.chunks] == [1]


def test_clock_that_is_set_back_starts_an_episode(bench):
    chunk, _ = bench.rig.query()
    bench.rig.now = 10 * PERIOD
    later, _ = bench.rig.query()
    assert (later.episode, later.query_number) == (chunk.episode + 1, 0)
    bench.rig.await_state(VlaStatus.RUNNING)


# --- faults of the policy ----------------------------------------------------------------------

@pytest.mark.parametrize("fault, words", [
    (InferenceError("the network gave non-finite actions"), ["non-finite"]),
    (RuntimeError("out of memory"), ["RuntimeError", "out of memory"]),
])
def test_failed_query_gives_a_hold_and_the_next_observation_tries_again(
        bench, fault, words):
    bench.rig.query()
    sent = len(bench.rig.chunks)
    bench.policy.fail(fault)
    stamp = bench.rig.observe()
    bench.rig.await_fault(VlaStatus.INFERENCE, *words)
    bench.rig.until(lambda: bench.rig.holds)
    assert stamp_to_ns(bench.rig.holds[0].header.stamp) == stamp
    assert len(bench.rig.chunks) == sent
    bench.policy.fail(None)
    chunk, _ = bench.rig.query(periods=1)  # not eight: the failed one does not count
    assert chunk.episode == 0
    bench.rig.await_state(VlaStatus.RUNNING)
    assert bench.rig.status.faults == 1  # however often it was tried meanwhile


def test_the_same_observation_published_again_is_tried_again(bench):
    bench.policy.fail(RuntimeError("once"))
    stamp = bench.rig.observe()
    bench.rig.await_fault(VlaStatus.INFERENCE)
    bench.policy.fail(None)
    bench.rig.await_chunk(stamp)


# --- inputs that are missing or do not match ---------------------------------------------------

def test_status_names_what_is_missing(ros):
    bench = Bench(ros)
    assert bench.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    bench.rig.await_state(VlaStatus.INACTIVE)
    assert bench.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    status = bench.rig.await_state(VlaStatus.WAITING)
    for name in ("camera/primary", "camera/wrist", "joint_states", "robot_description",
                 "instruction"):
        assert name in status.fault_text
    assert list(status.inputs) == ["camera/primary", "camera/wrist", "joint_states"]
    assert all(math.isnan(age) for age in status.input_ages)
    bench.rig.start()
    bench.rig.observe()
    status = bench.rig.await_state(VlaStatus.RUNNING)
    assert status.fault_text == ""


def test_camera_that_stops_is_reported_and_nothing_is_made_of_old_pictures(bench):
    bench.rig.query()
    bench.rig.observe(periods=60, images={"wrist": None})
    # The only thing that is named.
    bench.rig.until(lambda: bench.rig.status.fault_text.startswith("camera/wrist: nothing newer"))
    assert bench.rig.status.state == VlaStatus.WAITING
    assert ";" not in bench.rig.status.fault_text
    assert bench.rig.status.input_ages[1] == pytest.approx(3.0)
    assert len(bench.rig.chunks) == 1
    bench.rig.query()
    bench.rig.await_state(VlaStatus.RUNNING)


def test_stamps_of_another_clock_are_named(bench):
    bench.rig.query()
    message = bench.rig.picture("primary")
    message.header.stamp.sec = 1_800_000_000
    bench.rig.observe(images={"primary": message})
    bench.rig.until(lambda: "use_sim_time" in bench.rig.status.fault_text)
    assert "camera/primary" in bench.rig.status.fault_text


def test_messages_from_the_future_are_refused_and_the_next_good_ones_used(bench):
    bench.rig.query()
    hour = 3600 * 10**9
    bench.rig.now += hour
    images = {camera: bench.rig.picture(camera) for camera in ("primary", "wrist")}
    joints = bench.rig.joints()
    bench.rig.now -= hour
    bench.rig.observe(images=images, joints=joints)
    text = bench.rig.await_fault(
        VlaStatus.IMAGE, "camera/primary", "camera/wrist", "joint_states").fault_text
    assert text.count("60 min in the future of the node's clock") == 3
    assert "use_sim_time" in text
    assert bench.rig.status.input_ages[0] >= 0  # not those of the refused ones
    assert len(bench.rig.chunks) == 1
    chunk, _ = bench.rig.query()
    assert chunk.episode == 0
    bench.rig.await_state(VlaStatus.RUNNING)


def test_pictures_out_of_step_are_counted_and_named(bench):
    bench.rig.query()
    for _ in range(3):  # the wrist camera is half a period late, which is more than sync_slop
        bench.rig.now += 20 * PERIOD
        late = bench.rig.picture("wrist")
        late.header.stamp = ns_to_stamp(bench.rig.now - PERIOD // 2)
        bench.rig.observe(periods=0, images={"wrist": late})
    bench.rig.until(lambda: "sync_slop" in bench.rig.status.fault_text)
    assert len(bench.rig.chunks) == 1
    bench.rig.query()
    status = bench.rig.await_state(VlaStatus.RUNNING)
    assert status.unsynchronised > 0


# --- life cycle --------------------------------------------------------------------------------

def test_inactive_node_publishes_nothing(ros):
    bench = Bench(ros)
    assert bench.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    bench.rig.start()
    bench.rig.observe()
    bench.rig.until(lambda: bench.rig.status.images_received >= 2
                    and bench.rig.status.instruction == INSTRUCTION)
    assert bench.policy.observations == []
    assert bench.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    bench.rig.await_chunk(bench.rig.now)  # the pictures that had come


def test_deactivation_drops_the_result_of_a_running_query(bench):
    bench.policy.gate.clear()
    bench.rig.observe()
    bench.rig.until(bench.policy.entered.is_set)
    assert bench.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    bench.policy.gate.set()
    bench.rig.until(lambda: bench.rig.status.queries == 1)
    assert bench.rig.chunks == []
    assert bench.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    bench.rig.query()
    first = bench.rig.chunks[0]
    assert (first.episode, first.query_number) == (1, 0)


def test_cleanup_frees_the_policy_and_configure_loads_it_again(bench):
    bench.rig.query()
    assert bench.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert bench.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    bench.rig.await_state(VlaStatus.UNCONFIGURED)
    assert list(bench.rig.status.inputs) == []
    bench.up()
    bench.rig.query()
    assert len(bench.loader.policies) == 2
    assert bench.rig.await_state(VlaStatus.RUNNING).chunks == 1  # counted from configure


def test_cleanup_frees_the_memory_of_the_policy(bench):
    bench.rig.query()
    policy = weakref.ref(bench.loader.policies.pop())
    assert policy() is not None
    assert bench.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert bench.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    gc.collect()
    assert policy() is None


def test_error_in_a_transition_leaves_a_node_that_can_be_configured_again(ros, monkeypatch):
    bench = Bench(ros)
    assert bench.node.trigger_configure() == TransitionCallbackReturn.SUCCESS

    def fail(self):
        raise RuntimeError("no memory for the graph")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "activate", fail)
        assert bench.node.trigger_activate() != TransitionCallbackReturn.SUCCESS
    bench.rig.await_state(VlaStatus.UNCONFIGURED)
    bench.up()
    bench.rig.query()


def test_status_goes_on_while_the_policy_is_being_loaded(ros, module_ros):
    seen = []
    module_ros.node("observer").create_subscription(
        VlaStatus, "vla_status", seen.append, qos.latched())
    bench = Bench(ros)
    # Nobody spins the node meanwhile, so that none of its timers can do it.
    bench.loader.meanwhile = lambda: module_ros.spin_until(lambda: len(seen) >= 3)
    assert bench.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert [status.state for status in seen[:3]] == [VlaStatus.UNCONFIGURED] * 3


def test_quality_of_service_can_be_overridden(ros):
    name = "qos_overrides./joint_states.subscription.reliability"
    bench = Bench(ros, **{name: "reliable"})
    for _ in range(2):  # the parameters outlive the topics
        assert bench.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        joints, = bench.node.get_subscriptions_info_by_topic("/joint_states")
        assert joints.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        picture, = bench.node.get_subscriptions_info_by_topic("/camera/wrist/image_raw")
        assert picture.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        assert bench.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS


def test_failed_configuration_leaves_the_node_unconfigured_and_says_why(ros):
    bench = Bench(ros)
    bench.loader.error = CheckpointError("model.safetensors is cut short: copy it again")
    assert bench.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    bench.rig.await_fault(VlaStatus.CHECKPOINT, "cut short", "copy it again")
    bench.loader.error = None
    bench.up()
    bench.rig.query()
    assert bench.rig.await_state(VlaStatus.RUNNING).fault_code == VlaStatus.NONE


def test_autostart_tries_again_when_a_parameter_changes(ros):
    bench = Bench(ros, autostart=True)
    bench.loader.error = CheckpointError("no such directory")
    bench.rig.await_fault(VlaStatus.CHECKPOINT)
    bench.loader.error = None
    assert bench.rig.set_parameter("checkpoint", "another").successful
    bench.rig.await_state(VlaStatus.WAITING)
    assert bench.policy.settings["checkpoint"] == "another"


def test_checkpoint_that_does_not_fit_the_parameters_is_refused(ros):
    bench = Bench(ros, gripper__joints=["panda_finger_joint1"], gripper__scale=[1.0],
                  gripper__offset=[0.0])
    assert bench.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    bench.rig.await_fault(VlaStatus.CONFIGURATION, "7 values", "gripper.joints")


def test_robot_description_from_a_file(ros, tmp_path):
    path = tmp_path / "arm.urdf"
    bench = Bench(ros, robot_description_file=str(path))
    assert bench.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    bench.rig.await_fault(VlaStatus.ROBOT_DESCRIPTION, str(path))
    path.write_text(URDF)
    assert bench.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert bench.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    bench.rig.instruct(INSTRUCTION)
    bench.rig.query()
    assert bench.policy.observations[-1].proprio is not None


# --- parameters --------------------------------------------------------------------------------

def test_live_change_is_used_by_the_next_query_and_numbered(bench):
    before, _ = bench.rig.query()
    assert bench.rig.set_parameter("pruning", "off").successful
    assert bench.rig.set_parameter("pruning_seed", 3).successful
    assert bench.rig.set_parameter("replan_steps", 4).successful
    after, stats = bench.rig.query(periods=4)
    assert after.parameter_revision == before.parameter_revision + 3
    assert stats.parameter_revision == after.parameter_revision
    assert stats.method == "off" and bench.policy.seed == 3
    assert bench.rig.await_state(VlaStatus.RUNNING).parameter_revision == after.parameter_revision


def test_frame_that_the_robot_does_not_have_is_vetoed(bench):
    bench.rig.query()
    result = bench.rig.set_parameter("tool_frame", "flange")
    assert not result.successful
    assert "flange" in result.reason and "panda_hand_tcp" in result.reason
    bench.rig.query()


def test_wrong_frames_can_be_mended_one_after_another(ros):
    bench = Bench(ros, base_frame="base", tool_frame="flange").up()
    bench.rig.await_fault(VlaStatus.ROBOT_DESCRIPTION, "base")
    assert bench.rig.set_parameter("base_frame", "panda_link0").successful
    bench.rig.await_fault(VlaStatus.ROBOT_DESCRIPTION, "flange")
    assert bench.rig.set_parameter("tool_frame", "panda_hand_tcp").successful
    chunk, _ = bench.rig.query()
    assert (chunk.header.frame_id, chunk.parameter_revision) == ("panda_link0", 2)
    bench.rig.await_state(VlaStatus.RUNNING)


def test_what_needs_another_policy_is_vetoed_while_configured(bench):
    result = bench.rig.set_parameter("checkpoint", "other")
    assert not result.successful
    assert "cleanup" in result.reason


def test_two_nodes_in_two_namespaces(ros):
    one = Bench(ros).up()
    loader = Loader()
    overrides = [Parameter("autostart", value=False), Parameter("use_sim_time", value=True)]
    other = ros.add(VlaNode(loader, context=ros.context, namespace="/other",
                            parameter_overrides=overrides))
    assert other.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert other.trigger_activate() == TransitionCallbackReturn.SUCCESS
    one.rig.query()
    assert loader.policies[0].observations == []
