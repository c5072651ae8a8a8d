"""What specprune view learns from a real vla_node over DDS, and what it sets there."""
import time

import cv2
import numpy as np
import pytest
from specprune_ros.msg import PruneStats, SimStatus, VlaStatus
from std_srvs.srv import Trigger
from vla_bench import Bench
from vla_rig import INSTRUCTION

from specprune_ros.errors import ConfigurationError
from specprune_ros.ros import qos
from specprune_ros.ros.method_parameters import METHOD_PARAMETERS
from specprune_ros.ros.view_link import ViewError, ViewLink
from specprune_ros.ros.view_state import (
    GROUPS,
    condition,
    number,
    parameter_rows,
    settable,
    stats_values,
    status_values,
)
from specprune_ros.types import CameraTokens, Mode, PruneReport


@pytest.fixture
def link(ros, ros_environment):
    with ViewLink(domain=int(ros_environment["ROS_DOMAIN_ID"])) as link:
        yield link


@pytest.fixture
def bench(ros):
    return Bench(ros).up()


def until(bench, condition):
    """Wait while the node runs; what the link has not met yet is sent again."""
    bench.rig.until(condition)


def answer(bench, future):
    bench.ros.spin_until(future.done)
    return future.result(timeout=0)


def test_snapshot_tells_state_parameters_and_queries(bench, link):
    until(bench, lambda: link.snapshot()["parameters"])
    bench.rig.query()
    until(bench, lambda: link.snapshot()["points"])
    shown = link.snapshot()
    assert shown["condition"]["kind"] == "running"
    assert shown["status"]["instruction"] == INSTRUCTION
    assert shown["status_age"] < 60
    assert shown["parameters"]["pruning"] == "specprune"
    assert shown["parameters"]["cameras"] == ["primary", "wrist"]
    assert set(shown["parameters"]) >= {spec.name for spec in METHOD_PARAMETERS}
    point = shown["points"][-1]
    assert (point["tokens_dense"], point["tokens_static"]) == (16, 11)
    assert point["mode"] == "fine" and point["source"] == "policy"
    assert point["stages"] == {"preprocess": 1.0, "decoder": 20.0}
    assert point["total_ms"] == pytest.approx(21.0) and point["flops"] == 0.25
    assert link.snapshot(point["n"])["points"] == []
    assert shown["sim"] is None


def test_pictures_come_only_while_somebody_looks(bench, link):
    until(bench, lambda: link.snapshot()["parameters"])
    overlays = "camera/wrist/kept_patches"
    bench.policy.report = PruneReport(
        method="specprune", mode=Mode.COARSE, query_number=0,
        kept_positions=(np.arange(20), np.arange(5)), stage_ms={}, flops=1.0, dense_flops=2.0,
        cameras=tuple(CameraTokens(name, 4, 1, 1, 1, 2, ()) for name in ("primary", "wrist")),
        dynamic_layers=(), dense_refresh=False, thresholds={}, speeds={})
    bench.rig.query()
    assert link.picture("wrist", "camera") is None
    with link.viewer():
        until(bench, lambda: bench.node.count_subscribers(overlays))
        bench.rig.query()

        def complete():
            return all(link.picture(camera, which) for camera in ("primary", "wrist")
                       for which in ("camera", "kept"))

        # Overlays are drawn for queries alone, so another one is made from time to time.
        assert bench.ros.spin_until(complete, again=bench.rig.observe, period=0.3)
        picture = link.picture("primary", "camera")
        pixels = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape == (64, 64, 3)
        assert link.snapshot()["pictures"]["wrist"]["kept"]["n"] > 0
    until(bench, lambda: not bench.node.count_subscribers(overlays))


def test_picture_that_cannot_be_read_says_why(bench, link):
    until(bench, lambda: link.snapshot()["parameters"])
    with link.viewer():
        until(bench, lambda: bench.node.count_subscribers("camera/primary/image_raw") > 1)
        bench.rig.observe(images={"primary": {"encoding": "rgb8", "step": 3}})
        until(bench, lambda: (link.picture("primary", "camera") or 0)
              and link.picture("primary", "camera").trouble)
        assert "step is 3" in link.snapshot()["pictures"]["primary"]["camera"]["trouble"]


def test_a_change_is_taken_and_shown_with_what_follows_from_it(bench, link):
    until(bench, lambda: link.snapshot()["parameters"])
    assert answer(bench, link.set_parameters({"static.tau_scene": 0.8})) == (True, "")
    until(bench, lambda: link.snapshot()["parameters"]["pruning"] == "custom")
    shown = link.snapshot()["parameters"]
    assert shown["static.tau_scene"] == 0.8
    assert bench.node._settings()["static.tau_scene"] == 0.8


def test_a_veto_comes_with_the_reason_of_the_node(bench, link):
    until(bench, lambda: link.snapshot()["parameters"])
    ok, reason = answer(bench, link.set_parameters({"controller.exit_translation": 0.0}))
    assert not ok and "enter_translation" in reason
    assert bench.node._settings()["controller.exit_translation"] == 0.15


def test_a_change_by_somebody_else_is_shown(bench, link):
    until(bench, lambda: link.snapshot()["parameters"])
    bench.set(dynamic__keep=0.7)
    until(bench, lambda: link.snapshot()["parameters"]["dynamic.keep"] == 0.7)


def test_instruction_reset_and_fault(bench, link):
    until(bench, lambda: link.snapshot()["parameters"])
    bench.rig.query()
    assert answer(bench, link.set_parameters({"instruction": "open the drawer"}))[0]
    until(bench, lambda: link.snapshot()["status"]["instruction"] == "open the drawer")
    episode = link.snapshot()["status"]["episode"]
    assert answer(bench, link.trigger("reset_episode"))[0]
    until(bench, lambda: link.snapshot()["status"]["episode"] > episode)
    bench.set(guard__latch_after=1)
    bench.policy.fail(RuntimeError("broken"))
    bench.rig.observe()
    until(bench, lambda: link.snapshot()["status"]["latched"])
    assert link.snapshot()["condition"]["kind"] == "fault"
    assert "broken" in link.snapshot()["condition"]["text"]
    bench.policy.fail(None)
    ok, message = answer(bench, link.trigger("clear_fault"))
    assert ok and message.startswith("cleared")
    until(bench, lambda: not link.snapshot()["status"]["latched"])


def test_success_of_a_simulator(ros, ros_environment, link):
    publisher = ros.node("world").create_publisher(SimStatus, "sim_status", qos.results())
    message = SimStatus(episodes_done=4, successes=3, step=7, max_steps=160,
                        observation_age=float("nan"))
    ros.spin_until(lambda: link.snapshot()["sim"], again=lambda: publisher.publish(message))
    sim = link.snapshot()["sim"]
    assert (sim["successes"], sim["episodes_done"], sim["observation_age"]) == (3, 4, None)


def test_without_a_node_it_says_so_and_refuses_changes(ros_environment):
    with ViewLink(namespace="nobody", domain=int(ros_environment["ROS_DOMAIN_ID"])) as link:
        shown = link.snapshot()
        assert shown["condition"]["kind"] == "absent"
        assert "ROS_DOMAIN_ID" in shown["condition"]["text"]
        assert shown["status"] is None and shown["parameters"] == {} == shown["pictures"]
        with pytest.raises(ViewError, match="is it running"):
            link.set_parameters({"dynamic.keep": 0.5}).result(timeout=30)


def test_a_node_that_does_not_answer_costs_neither_work_nor_memory(ros, link, monkeypatch):
    node = ros.node("vla_node")  # nobody spins it
    node.create_publisher(VlaStatus, "vla_status", qos.latched())
    node.create_service(Trigger, "vla_node/reset_episode", lambda _request, answer: answer)
    client, counts = link._triggers["reset_episode"], {"spins": 0, "looks": 0, "asked": 0}

    def counted(thing, method, name):
        plain = getattr(thing, method)

        def call(*args, **options):
            counts[name] += 1
            return plain(*args, **options)

        monkeypatch.setattr(thing, method, call)

    def wait(condition):
        for _ in range(1200):
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError("not within a minute")

    wait(lambda: client.service_is_ready() and link._gets.service_is_ready())
    result = link.trigger("reset_episode")
    wait(lambda: client._pending_requests)
    counted(link._executor, "spin_once", "spins")
    counted(link._shown, "want", "looks")
    counted(link._gets, "call_async", "asked")
    wait(lambda: counts["asked"] >= 4)
    assert counts["spins"] < 40 * counts["looks"], counts
    assert len(link._gets._pending_requests) <= 1
    result.cancel()  # as the server does after its time-out
    assert not client._pending_requests


def test_an_error_that_ends_the_thread_is_told(link, monkeypatch):
    def broken(*_args):
        raise ValueError("no such picture")

    link.check()
    monkeypatch.setattr(link._shown, "want", broken)
    link._thread.join(60.0)
    with pytest.raises(ViewError, match="hears no more of the node: ValueError: no such picture"):
        link.check()


# --- what messages become -----------------------------------------------------------------------

def test_condition_names_what_is_wrong_first():
    assert condition(None, None, 0, "start one") == {"kind": "absent", "text": "start one"}
    assert condition(None, None, 1, "")["kind"] == "silent"
    running = status_values(VlaStatus(state=VlaStatus.RUNNING))
    assert condition(running, 0.4, 1, "")["kind"] == "running"
    gone = condition(running, 9.0, 0, "")
    assert gone["kind"] == "silent" and "9 s" in gone["text"] and "gone" in gone["text"]
    fault = status_values(VlaStatus(state=VlaStatus.FAULT, fault_code=VlaStatus.GUARD,
                                    fault_text="row 3 is nan"))
    assert fault["fault"] == "guard"
    assert condition(fault, 0.1, 1, "") == {"kind": "fault", "text": "row 3 is nan"}


def test_tokens_of_a_layer_are_those_of_all_cameras():
    values = stats_values(PruneStats(
        cameras=["primary", "wrist"], tokens_in=[8, 8], kept_static=[5, 6],
        visual_tokens_per_layer=[8, 8, 5, 6, 3, 2], observation_age=0.02, flops=float("nan"),
        dense_flops=4.0))
    assert values["layer_tokens"] == [16, 11, 5] and values["tokens_last"] == 5
    assert values["cameras"]["wrist"] == {"tokens_in": 8, "kept": 6}
    assert values["age_ms"] == pytest.approx(20.0) and values["flops"] is None
    assert number(float("inf")) is None


def test_rows_of_the_page_hold_every_parameter_of_the_method_and_no_limit_of_the_guard():
    rows = parameter_rows()
    assert {row["name"] for row in rows} == {spec.name for spec in METHOD_PARAMETERS}
    assert not [row for row in rows if row["name"].startswith(("guard", "watchdog"))]
    groups = [row["group"] for row in rows]
    assert list(dict.fromkeys(groups)) == list(GROUPS.values())
    for row in rows:
        if row.get("slider"):
            low, high = row["slider"]
            assert row["low"] <= low < high <= row["high"], row


def test_values_of_the_page_take_the_types_of_their_parameters():
    values = settable({"static.tau_scene": 1, "dynamic.floor": 40, "static.use_local": False,
                       "pruning": "off", "instruction": "go"})
    assert type(values["static.tau_scene"]) is float and type(values["dynamic.floor"]) is int
    for wrong in ({"guard.max_command": 5.0}, {"dynamic.floor": 1.5}, {"static.tau_scene": True},
                  {"static.use_local": 1}, {"pruning": 3}, {"use_sim_time": False},
                  {"dynamic.floor": 2**63}, {"static.tau_scene": 10**400}):
        with pytest.raises(ConfigurationError):
            settable(wrong)
