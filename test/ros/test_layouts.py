"""Layouts for rqt, Foxglove and RViz: each parses, and names what the nodes really offer.

The tools themselves are not at hand here: that they open the files is not tested.
"""
import ast
import json
import re
from importlib import import_module
from types import SimpleNamespace

import pytest
import yaml
from rclpy.lifecycle import TransitionCallbackReturn
from specprune_ros.msg import ActionChunk
from vla_bench import Bench

from specprune_ros.ros.sim_outputs import WorldOutputs
from specprune_ros.share import share_dir

CONFIG = share_dir() / "config"


@pytest.fixture
def offered(ros):
    """What vla_node and the simulator offer: ({topic: type}, {service: type})."""
    bench = Bench(ros)
    assert bench.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    world = ros.node("world")
    WorldOutputs(world, SimpleNamespace(image_transport="raw", replan_steps=8,
                                        cameras=["primary", "wrist"], frame_ids=["a", "b"]))
    # Of the objects, not of the graph: nodes of earlier tests may linger there under these names.
    topics = {publisher.topic_name: name_of(publisher.msg_type, "msg")
              for node in (bench.node, world) for publisher in node.publishers}
    services = {bench.node.resolve_service_name(service.srv_name): name_of(service.srv_type, "srv")
                for service in bench.node.services}
    return topics, services


def name_of(kind, folder):
    """Name of an interface as ROS writes it: package/msg/Name."""
    return f"{kind.__module__.split('.')[0]}/{folder}/{kind.__name__}"


def check_field(topics, topic, fields, index_forms=r"\d+"):
    """Fail unless the topic is there and has a numeric field of this dotted path.

    index_forms: pattern of the indices that the tool understands.
    """
    assert topic in topics, f"{topic} is published by nobody: {sorted(topics)}"
    package, _, name = topics[topic].split("/")
    kind = getattr(import_module(f"{package}.msg"), name)
    for part in fields:
        field, _, index = part.partition("[")
        known = kind.get_fields_and_field_types()
        assert field in known, f"{topic} has no {field}: {sorted(known)}"
        assert bool(index) == ("sequence" in known[field]), f"{topic}.{part} is {known[field]}"
        understood = re.fullmatch(rf"({index_forms})\]", index)
        assert not index or understood, f"{topic}.{part}"
        kind = known[field]
    assert re.search(r"double|float|u?int\d+", kind), f"{topic}: {fields} is no number"


# --- Foxglove -----------------------------------------------------------------------------------

@pytest.fixture
def foxglove():
    return json.loads((CONFIG / "foxglove_layout.json").read_text())


def topic_and_fields(path):
    """Of a message path: topic, dotted fields, and the field that a filter compares or None."""
    topic, compared, fields = re.fullmatch(r"(/\w+)(?:\{(\w+)!=\d+\})?\.(.+)", path).groups()
    return topic, fields.split("."), compared


def panels_of(layout):
    """Panels in a tree of splits."""
    if isinstance(layout, str):
        return [layout]
    assert set(layout) == {"direction", "first", "second", "splitPercentage"}
    assert layout["direction"] in ("row", "column") and 0 < layout["splitPercentage"] < 100
    return panels_of(layout["first"]) + panels_of(layout["second"])


def test_foxglove_shows_every_panel_once(foxglove):
    shown = panels_of(foxglove["layout"])
    assert sorted(shown) == sorted(foxglove["configById"])
    kinds = {name.split("!")[0] for name in shown}
    assert kinds == {"Image", "3D", "Plot", "StateTransitions", "RawMessages", "Parameters",
                     "CallService"}


def test_foxglove_reads_the_titles(foxglove):
    """A panel has its title under this key; it ignores ``title``."""
    for name, config in foxglove["configById"].items():
        assert "title" not in config, name
        assert config["foxglovePanelTitle"], name


def test_foxglove_plots_show_the_whole_of_a_recording(foxglove):
    """A plot that follows the last seconds stays where a file began, in Lichtblick 1.10.8."""
    plots = [config for name, config in foxglove["configById"].items() if name.startswith("Plot")]
    assert len(plots) == 3
    assert not any("followingViewWidth" in plot for plot in plots)


def test_foxglove_names_topics_fields_and_services_that_exist(foxglove, offered):
    topics, services = offered
    for name, config in foxglove["configById"].items():
        kind = name.split("!")[0]
        if kind == "Image":
            assert topics[config["imageMode"]["imageTopic"]] == "sensor_msgs/msg/Image"
        elif kind in ("Plot", "StateTransitions"):
            for path in config["paths"]:
                topic, fields, compared = topic_and_fields(path["value"])
                # Nothing is drawn for an index from the end, [-1]; a plot takes all, [:].
                check_field(topics, topic, fields,
                            index_forms=r"\d+|:" if kind == "Plot" else r"\d+")
                if compared:
                    check_field(topics, topic, [compared])
                assert path["timestampMethod"] == "receiveTime"
                assert kind != "Plot" or path["enabled"] is True
        elif kind == "3D":
            assert {topics[topic] for topic in config["topics"]} == {"nav_msgs/msg/Path"}
        elif kind == "RawMessages":
            assert config["topicPath"] in topics
        elif kind == "CallService":
            assert services[config["serviceName"]] == "std_srvs/srv/Trigger"
            assert json.loads(config["requestPayload"]) == {}


def test_foxglove_says_what_the_numbers_of_a_state_mean(foxglove):
    labels = {path["value"]: path["label"]
              for path in foxglove["configById"]["StateTransitions!mode"]["paths"]}
    assert (ActionChunk.COARSE, ActionChunk.FINE) == (0, 1)
    assert labels["/prune_stats.mode"].endswith("0 coarse, 1 fine")
    assert (ActionChunk.POLICY, ActionChunk.DENSE, ActionChunk.HOLD) == (0, 1, 2)
    assert labels["/action_chunk.source"].endswith("0 policy, 1 dense, 2 hold")
    # A hold chunk took no inference: its time of 0 is no time of a query.
    latency = [path["value"] for path in foxglove["configById"]["Plot!latency"]["paths"]]
    assert f"/action_chunk{{source!={ActionChunk.HOLD}}}.inference_time" in latency


# --- rqt ------------------------------------------------------------------------------------------

#: What each plug-in reads of its settings, the object name of its dock's widget, and the topic that
#: it is bound to, if any (rqt_robot_monitor, for one, only reads /diagnostics_agg). As of rqt 1.5.
RQT_PLUGINS = {
    "rqt_image_view/ImageView": ({"topic"}, "ImageViewWidget", None),
    "rqt_plot/Plot": ({"topics", "autoscroll", "x_limits", "y_limits"}, "DataPlotWidget", None),
    "rqt_reconfigure/Param": ({"selected_nodes", "splitter", "_splitter"},
                              "_plugincontainer_top_widget", None),
    "rqt_runtime_monitor/RuntimeMonitor": (set(), "RuntimeMonitorWidget", "/diagnostics"),
    "rqt_topic/TopicPlugin": (set(), "TopicWidget", None),
    "rqt_service_caller/ServiceCaller": ({"current_service_name"}, "ServiceCallerWidget", None),
}


@pytest.fixture
def perspective():
    return json.loads((CONFIG / "specprune.perspective").read_text())


def rqt_value(value):
    """A setting as rqt reads it: a Python literal in a string, or a QByteArray in hex."""
    if value["type"] == "repr":
        return ast.literal_eval(value["repr"])
    assert value["type"] == "repr(QByteArray.hex)"
    literal = re.fullmatch(r"QtCore\.QByteArray\((b'[0-9a-f]+')\)", value[value["type"]])
    return bytes.fromhex(ast.literal_eval(literal[1]).decode())


def running_plugins(perspective):
    """{name of the group: (plug-in, its settings)}."""
    manager = perspective["groups"]["pluginmanager"]
    return {f"plugin__{plugin.replace('/', '__')}__{number}": (plugin, {
                key: rqt_value(value) for key, value in manager["groups"][
                    f"plugin__{plugin.replace('/', '__')}__{number}"]["groups"]["plugin"][
                        "keys"].items()})
            for plugin, numbers in rqt_value(manager["keys"]["running-plugins"]).items()
            for number in numbers}


def test_rqt_has_known_settings_for_each_running_plugin(perspective):
    running = running_plugins(perspective)
    assert set(running) == set(perspective["groups"]["pluginmanager"]["groups"])
    assert {plugin for plugin, _ in running.values()} == set(RQT_PLUGINS)
    for name, (plugin, settings) in running.items():
        assert set(settings) == RQT_PLUGINS[plugin][0], name


def test_rqt_has_a_place_for_each_plugin(perspective):
    """Without the state of its window rqt puts all docks in one row, one over the other."""
    window = perspective["groups"]["mainwindow"]["keys"]
    state = rqt_value(window["state"])
    for name, (plugin, _) in running_plugins(perspective).items():
        dock = f"{name.removeprefix('plugin__')}__{RQT_PLUGINS[plugin][1]}"
        length = 2 * len(dock)  # QDataStream: bytes of the string, then UTF-16
        assert length.to_bytes(4, "big") + dock.encode("utf-16-be") in state, dock
    assert rqt_value(window["geometry"])


def test_rqt_names_topics_and_fields_that_exist(perspective, offered):
    topics, services = offered
    plotted = []
    for plugin, settings in running_plugins(perspective).values():
        bound = RQT_PLUGINS[plugin][2]
        assert bound is None or bound in topics
        if "topic" in settings:
            assert topics[settings["topic"]] == "sensor_msgs/msg/Image"
        for path in settings.get("topics", ()):
            topic, *fields = path.removeprefix("/").split("/")
            check_field(topics, f"/{topic}", fields, index_forms=r"-?\d+")
            plotted.append(path)
        if "current_service_name" in settings:
            assert settings["current_service_name"] in services
        assert settings.get("selected_nodes", ["/vla_node"]) == ["/vla_node"]
    assert len(plotted) >= 6


# --- RViz -----------------------------------------------------------------------------------------

RVIZ_TYPES = {"rviz_default_plugins/Path": "nav_msgs/msg/Path",
              "rviz_default_plugins/Image": "sensor_msgs/msg/Image"}


def test_rviz_names_topics_of_the_types_that_its_displays_take(offered):
    topics, _ = offered
    config = yaml.safe_load((CONFIG / "specprune.rviz").read_text())
    manager = config["Visualization Manager"]
    with_topic = [d for d in manager["Displays"] if "Topic" in d]
    assert {d["Class"] for d in with_topic} == set(RVIZ_TYPES)
    for display in with_topic:
        assert topics[display["Topic"]["Value"]] == RVIZ_TYPES[display["Class"]]
        assert display["Enabled"] == display["Value"]
    # The path is in base_frame: RViz needs no transforms where that is its fixed frame.
    parameters = yaml.safe_load((CONFIG / "vla.yaml").read_text())
    assert manager["Global Options"]["Fixed Frame"] == (
        parameters["/**/vla_node"]["ros__parameters"]["base_frame"])
