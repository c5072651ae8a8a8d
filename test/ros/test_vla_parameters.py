"""The parameter table: what is declared, what is vetoed, what config/vla.yaml says."""
import re
from dataclasses import replace

import pytest
import yaml
from rcl_interfaces.msg import Log
from rclpy.exceptions import ParameterException
from rclpy.logging import LoggingSeverity
from rclpy.parameter import Parameter

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.ros.method_parameters import GOVERNED, preset_values
from specprune_ros.ros.parameters import Change, ParameterServer
from specprune_ros.ros.player_parameters import PLAYER_PARAMETERS
from specprune_ros.ros.sim_parameters import SIM_BRIDGE_PARAMETERS
from specprune_ros.ros.vla_parameters import VLA_PARAMETERS, VlaSettings
from specprune_ros.share import share_dir


@pytest.fixture
def node(ros):
    return ros.node("parameters")


@pytest.fixture
def server(node):
    return ParameterServer(node, VlaSettings, apply=lambda settings: None, changed=lambda: None)


def change(node, **values):
    """Result of setting parameters, all at once; __ in a name stands for a dot."""
    return node.set_parameters_atomically(
        [Parameter(name.replace("__", "."), value=value) for name, value in values.items()])


def test_defaults_fit_together():
    VlaSettings().check()


@pytest.mark.parametrize("specs", [VLA_PARAMETERS, PLAYER_PARAMETERS, SIM_BRIDGE_PARAMETERS],
                         ids=["vla_node", "chunk_player_node", "sim_bridge_node"])
def test_every_range_fits_a_slider(specs):
    """rqt_reconfigure shows no parameter after one whose integer range exceeds Qt's int."""
    for spec in specs:
        if spec.type is Parameter.Type.INTEGER and spec.low is not None:
            assert -2**31 <= spec.low < spec.high < 2**31, spec.name


def test_table_declares_type_description_range_and_read_only(node, server):
    for spec in VLA_PARAMETERS:
        described = node.describe_parameter(spec.name)
        assert described.type == spec.type.value
        assert described.description == spec.description and spec.description.endswith(".")
        assert described.read_only == (spec.change is Change.START)
        assert spec.change.value in described.additional_constraints
        for choice in spec.choices:
            assert choice in described.additional_constraints
    assert node.describe_parameter("sync_slop").floating_point_range[0].to_value == 1.0
    assert node.describe_parameter("replan_steps").integer_range[0].from_value == 1


@pytest.mark.parametrize("values, reason", [
    ({"replan_steps": 9}, "replan_steps (9) is more than chunk_length (8)"),
    ({"replan_steps": 0}, "replan_steps"),
    ({"sync_slop": 2.0}, "sync_slop"),
    ({"input_timeout": float("nan")}, "input_timeout"),
    ({"pruning": "most"}, "choose one of off, specprune"),
    ({"pruning": True}, "pruning is 'on'; choose one of off, specprune"),
    ({"pruning": 0}, "pruning is 0, which is no string; choose one of off, specprune"),
    ({"use_proprio": None}, "use_proprio is None, which is no string; choose one of auto, on"),
    ({"dtype": "int8"}, "float32, bfloat16, float16"),
    ({"camera_rotation": [0, 45]}, "0, 90, 180 or 270"),
    ({"camera_rotation": [0, 0, 0]}, "camera_rotation has 3 values, but cameras has 2"),
    ({"cameras": ["wrist", "primary"]}, "first must be primary"),
    ({"cameras": ["primary", "primary wrist"]}, "letters, digits"),
    ({"cameras": ["primary", "overhead"]}, "wrist in their names"),
    ({"gripper__joints": ["finger"]}, "gripper.scale has 2 values, but gripper.joints has 1"),
    ({"gripper__scale": [1.0, float("inf")]}, "finite"),
    ({"orientation_reference_xyzw": [0.0, 0.0, 0.0, 0.0]}, "quaternion"),
    ({"unit_scale__rotation": 0.0}, "unit_scale.rotation"),
    ({"autostart": False}, "read-only"),
])
def test_veto_has_a_reason_and_changes_nothing(node, server, values, reason):
    before = server.settings
    result = change(node, **values)
    assert not result.successful
    assert reason in result.reason
    assert server.settings is before


def test_veto_is_logged_for_those_whose_client_does_not_show_it(ros, node, server):
    heard = []
    ros.node("listener").create_subscription(
        Log, "/rosout", lambda line: heard.append((line.name, line.level, line.msg)), 100)
    assert ros.spin_until(lambda: node.count_subscribers("/rosout") > 0)
    result = change(node, replan_steps=9)
    change(node, sync_slop=0.5)
    assert ros.spin_until(lambda: heard)
    assert heard == [("parameters", int(LoggingSeverity.WARN),
                      f"parameters stay as they were: {result.reason}")]


def test_changes_that_only_fit_together_are_made_together(node, server):
    assert not change(node, replan_steps=16).successful
    assert change(node, replan_steps=16, chunk_length=16).successful
    assert (server.settings["replan_steps"], server.settings.revision) == (16, 1)


def test_each_change_has_a_revision(node, server):
    for revision, slop in enumerate((0.1, 0.2, 0.3), 1):
        assert change(node, sync_slop=slop).successful
        assert (server.settings["sync_slop"], server.settings.revision) == (slop, revision)


def test_same_value_again_is_no_change(node, server):
    assert change(node, sync_slop=0.02).successful
    assert server.settings.revision == 0


def test_one_value_stands_for_all():
    settings = VlaSettings({"camera_rotation": [180]})
    settings.check()
    assert settings.per_item("camera_rotation", "cameras") == (180, 180)


def test_values_that_never_fitted_are_mended_one_after_another(ros):
    wrong = {"cameras": ["primary"], "camera_rotation": [0, 90], "replan_steps": 9}
    node = ros.node("from_a_file", parameter_overrides=[
        Parameter(name, value=value) for name, value in wrong.items()])
    server = ParameterServer(node, VlaSettings, lambda settings: None, lambda: None)
    with pytest.raises(ConfigurationError):
        server.settings.check()
    assert not change(node, pruning="most").successful
    assert change(node, camera_rotation=[90]).successful
    assert change(node, replan_steps=8).successful
    server.settings.check()
    assert not change(node, replan_steps=9).successful


def test_bare_off_and_on_of_yaml_are_what_they_say(ros, node, server):
    values = yaml.safe_load("{pruning: off, use_proprio: on}")
    assert values == {"pruning": False, "use_proprio": True}
    assert change(node, **values).successful
    started = ros.node("from_yaml", parameter_overrides=[
        Parameter(name, value=value) for name, value in values.items()])
    at_start = ParameterServer(started, VlaSettings, lambda settings: None, lambda: None)
    assert started.get_parameter("pruning").value == "off"
    for settings in (server.settings, at_start.settings):
        settings.check()
        assert (settings["pruning"], settings["use_proprio"]) == ("off", "on")
    assert change(node, pruning="off").successful
    assert server.settings.revision == 1
    assert not change(node, image_transport=False).successful


def test_start_value_that_is_no_string_is_named(ros):
    node = ros.node("from_yaml", parameter_overrides=[Parameter("pruning", value=0)])
    with pytest.raises(ParameterException, match="pruning.*no string; choose one of off"):
        ParameterServer(node, VlaSettings, lambda settings: None, lambda: None)


# --- presets and their values --------------------------------------------------------------------

def test_preset_sets_its_values_and_a_later_change_makes_it_custom(node, server):
    assert change(node, pruning="paper_v1").successful
    assert server.settings.revision == 1
    shown = {name: node.get_parameter(name).value for name in GOVERNED}
    assert shown == preset_values("paper_v1")
    assert server.settings.method == "paper_v1"

    assert change(node, budgets__scene__coarse__local=20).successful
    assert server.settings.revision == 2
    assert node.get_parameter("pruning").value == "custom"
    assert node.get_parameter("custom_base").value == "paper_v1"
    config = server.settings.method
    expected = preset("paper_v1")
    scene = replace(expected.budgets.scene_coarse, local=20)
    assert config == replace(expected, name="custom",
                             budgets=replace(expected.budgets, scene_coarse=scene))

    assert change(node, pruning="paper_v1").successful  # and back
    assert node.get_parameter("budgets.scene.coarse.local").value == 24
    assert server.settings.method == "paper_v1"


def test_every_preset_is_its_parameters(node, server):
    for name in PRESETS:
        assert change(node, pruning=name).successful
        assert change(node, pruning="custom").successful  # keeps the values
        assert server.settings.method == replace(preset(name), name="custom")


@pytest.mark.parametrize("values, reason", [
    ({"budgets__wrist__fine__global": 29}, "fine budget wrist.global is below the coarse one"),
    ({"controller__exit_rotation": 0.4}, "exit_rotation (0.4) must not be below enter_rotation"),
    ({"controller__enter_translation": 0.2}, "exit_translation (0.15) must not be below"),
    ({"dynamic__keep": 0.0}, "keep"),
    ({"interval__slope": 0.5}, "slope"),
    ({"interval__longest": 16}, "longest"),
    ({"static__tau_wrist": float("nan")}, "tau_wrist"),
    ({"pruning": "paper_v1", "static__carry": 0.3}, "static.carry of preset paper_v1 is 0.0"),
    ({"custom_base": "off"}, "choose one of specprune"),
])
def test_method_that_contradicts_itself_is_vetoed(node, server, values, reason):
    before = server.settings
    result = change(node, **values)
    assert not result.successful and reason in result.reason
    assert server.settings is before
    assert node.get_parameter("pruning").value == "specprune"


def test_budgets_that_only_fit_together_are_changed_together(node, server):
    assert not change(node, budgets__wrist__coarse__global=80).successful
    assert change(node, budgets__wrist__coarse__global=80,
                  budgets__wrist__fine__global=80).successful
    assert change(node, pruning="release").successful  # whose fine budgets are the smaller ones
    assert change(node, budgets__wrist__fine__global=10).successful


def test_values_of_a_method_without_them_wait_until_custom_is_chosen(node, server):
    assert change(node, pruning="off").successful
    assert change(node, dynamic__keep=0.8).successful
    assert server.settings.method == "off"
    assert change(node, pruning="custom").successful
    assert server.settings.method.dynamic.keep == 0.8


@pytest.mark.parametrize("given, pruning, base, keep", [
    ({}, "specprune", "specprune", 0.9),
    ({"pruning": "release"}, "release", "release", 0.9),
    ({"dynamic.keep": 0.7}, "custom", "specprune", 0.7),
    ({"dynamic.keep": 0.9}, "specprune", "specprune", 0.9),
    ({"pruning": "paper_v1", "dynamic.keep": 0.7}, "custom", "paper_v1", 0.7),
    ({"pruning": "custom", "custom_base": "paper_icml", "dynamic.keep": 0.7}, "custom",
     "paper_icml", 0.7),
    ({"pruning": "off", "dynamic.keep": 0.7}, "off", "specprune", 0.7),
])
def test_start_values(ros, given, pruning, base, keep):
    node = ros.node("from_a_file", parameter_overrides=[
        Parameter(name, value=value) for name, value in given.items()])
    server = ParameterServer(node, VlaSettings, lambda settings: None, lambda: None)
    server.settings.check()
    assert server.settings.revision == 0
    for source in (lambda name: node.get_parameter(name).value, server.settings.__getitem__):
        assert (source("pruning"), source("custom_base"), source("dynamic.keep")) == (
            pruning, base, keep)
        assert source("static.carry") == preset_values(base)["static.carry"]


def test_settings_are_not_changed_under_their_user(node, server):
    used = server.settings
    assert change(node, sync_slop=0.5).successful
    assert used["sync_slop"] == 0.02


def test_what_needs_another_policy_can_change_only_while_unconfigured(node, server):
    server.configured = True
    for spec in VLA_PARAMETERS:
        value = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        # Setting the value it has is no change, and what a parameter file loaded again does.
        assert spec.read_only or change(node, **{spec.name: value}).successful
    result = change(node, checkpoint="other")
    assert not result.successful and "cleanup" in result.reason
    assert change(node, pruning="off").successful
    server.configured = False
    assert change(node, checkpoint="other").successful


def test_veto_of_the_node_is_passed_on(node):
    def refuse(settings):
        if settings["tool_frame"] == "flange":
            raise ConfigurationError("no link flange")

    server = ParameterServer(node, VlaSettings, refuse, changed=lambda: None)
    assert change(node, tool_frame="flange").reason == "no link flange"
    assert server.settings["tool_frame"] == "panda_hand_tcp"


def test_other_parameters_are_not_ours_to_judge(node, server):
    node.declare_parameter("somebody_elses", 1)
    assert change(node, somebody_elses=2).successful
    assert server.settings.revision == 0


def test_shipped_file_has_every_parameter_with_its_default():
    text = (share_dir() / "config" / "vla.yaml").read_text()
    # What a preset decides is written as a comment.
    first, last = text.index("    # custom_base:"), text.index("    # --- task")
    written = text[:first] + re.sub("(?m)^    # ", "    ", text[first:last]) + text[last:]
    values = dict(flat(yaml.safe_load(written)["/**/vla_node"]["ros__parameters"]))
    assert list(values) == [spec.name for spec in VLA_PARAMETERS]
    as_shipped = flat(yaml.safe_load(text)["/**/vla_node"]["ros__parameters"])
    assert dict(VlaSettings.started(dict(as_shipped))) == dict(VlaSettings())
    settings = VlaSettings.started(values)
    settings.check()
    assert dict(settings) == dict(VlaSettings())
    for spec in VLA_PARAMETERS:  # YAML 1 is no float for ROS
        assert Parameter.Type.from_parameter_value(values[spec.name]) == spec.type


def flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
