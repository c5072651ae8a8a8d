"""The launch files against the table of nodes, with a stand-in for ROS's launch.

Where the real launch is installed, its own classes read the file too.
"""
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from specprune_ros.bringup import ARGUMENTS, LOG_LEVELS, NODES, fastdds_variable, localhost_setting
from specprune_ros.errors import ConfigurationError
from specprune_ros.share import share_dir
from specprune_ros.sim.libero.suites import PYTHON_VARIABLE
from specprune_ros.sim.libero.suites import SUITES as LIBERO_SUITES

LAUNCH_FILE = share_dir() / "launch" / "vla.launch.py"
LIBERO_FILE = share_dir() / "launch" / "libero.launch.py"


class Recorded:
    """Keeps the arguments that it was made with."""

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


class LaunchDescription(Recorded):
    pass


class DeclareLaunchArgument(Recorded):
    pass


class OpaqueFunction(Recorded):
    pass


class SetEnvironmentVariable(Recorded):
    pass


class Node(Recorded):
    pass


class ParameterValue(Recorded):
    pass


class PathJoinSubstitution(Recorded):
    pass


class FindPackageShare(Recorded):
    pass


class IncludeLaunchDescription(Recorded):
    pass


class PythonLaunchDescriptionSource(Recorded):
    pass


class EnvironmentVariable(Recorded):
    pass


class LaunchConfiguration(Recorded):
    def perform(self, context):
        return context[self.args[0]]


@pytest.fixture
def stand_ins(monkeypatch):
    """What the launch files import of ROS."""
    for name, members in {
            "launch": [LaunchDescription],
            "launch.actions": [DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction,
                               SetEnvironmentVariable],
            "launch.launch_description_sources": [PythonLaunchDescriptionSource],
            "launch.substitutions": [EnvironmentVariable, LaunchConfiguration,
                                     PathJoinSubstitution],
            "launch_ros": [],
            "launch_ros.actions": [Node],
            "launch_ros.parameter_descriptions": [ParameterValue],
            "launch_ros.substitutions": [FindPackageShare]}.items():
        module = ModuleType(name)
        vars(module).update({member.__name__: member for member in members})
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def launch_file(stand_ins):
    """The launch file of the nodes as a module, over the stand-ins."""
    return load(LAUNCH_FILE)


def load(path: Path):
    spec = spec_from_file_location("vla_launch", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(launch_file, **values):
    """Nodes that the file starts for these argument values; {executable: Node}."""
    description = launch_file.generate_launch_description().args[0]
    declared = [action for action in description if isinstance(action, DeclareLaunchArgument)]
    context = {}
    for action in declared:
        default = action.kwargs["default_value"]
        context[action.args[0]] = default
    assert set(values) <= set(context)
    context.update(values)
    for name, value in list(context.items()):
        if isinstance(value, LaunchConfiguration):
            context[name] = value.perform(context)
    (function,) = [action for action in description if isinstance(action, OpaqueFunction)]
    return {node.kwargs["executable"]: node for node in function.kwargs["function"](context)}


def settings(node):
    """Parameters that win over the file, with the text of ParameterValues."""
    return {name: value.args[0] if isinstance(value, ParameterValue) else value
            for name, value in node.kwargs["parameters"][1].items()}


def test_arguments_are_those_of_the_table_and_all_are_described(launch_file):
    actions = launch_file.generate_launch_description().args[0]
    declared = {action.args[0]: action.kwargs for action in actions
                if isinstance(action, DeclareLaunchArgument)}
    assert set(declared) == {argument.name for argument in ARGUMENTS} | {
        "sim", "use_sim_time", "namespace", "params_file", "log_level"}
    assert {"checkpoint", "device", "dtype", "pruning", "suite", "autostart"} <= set(declared)
    assert all(keywords["description"] for keywords in declared.values())
    for name in ("dtype", "autostart", "sim", "use_sim_time", "log_level"):
        assert declared[name]["choices"], name
    for argument in ARGUMENTS:
        assert declared[argument.name]["default_value"] == ""
        if argument.choices:  # launch refuses a default that is not among the choices
            assert declared[argument.name]["choices"] == ["", *argument.choices]
    assert declared["log_level"]["choices"] == list(LOG_LEVELS)


def test_nodes_are_those_of_the_table(launch_file):
    nodes = start(launch_file, output="twist")
    assert set(nodes) == {spec.executable for spec in NODES}
    assert set(start(launch_file)) == {"vla_node", "sim_bridge_node"}
    for spec in NODES:
        assert nodes[spec.executable].kwargs["name"] == spec.name
        assert nodes[spec.executable].kwargs["package"] == "specprune_ros"
        assert settings(nodes[spec.executable])["use_sim_time"] is True


def test_without_the_simulation_policy_and_player_run_on_wall_time(launch_file):
    nodes = start(launch_file, sim="false")
    assert set(nodes) == {"vla_node", "chunk_player_node"}
    assert all(settings(node) == {"use_sim_time": False} for node in nodes.values())
    assert settings(start(launch_file, sim="false", use_sim_time="true")["vla_node"]) == {
        "use_sim_time": True}


def test_an_argument_sets_the_parameter_of_its_node_as_a_string(launch_file):
    nodes = start(launch_file, pruning="off", suite="tabletop_hard", autostart="false")
    pruning = nodes["vla_node"].kwargs["parameters"][1]["pruning"]
    assert (pruning.args, pruning.kwargs) == (("off",), {"value_type": str})
    assert settings(nodes["vla_node"])["autostart"] is False
    assert settings(nodes["sim_bridge_node"])["suite"] == "tabletop_hard"
    assert "pruning" not in settings(nodes["sim_bridge_node"])
    assert "checkpoint" not in settings(nodes["vla_node"])  # empty: the file's value stays


def test_namespace_level_and_file_reach_every_node(launch_file):
    nodes = start(launch_file, namespace="left", log_level="debug", params_file="/some/file.yaml")
    for node in nodes.values():
        assert node.kwargs["namespace"] == "left"
        assert node.kwargs["parameters"][0] == "/some/file.yaml"
        assert node.kwargs["arguments"] == ["--ros-args", "--log-level", "debug"]
    overrides = [name for name in settings(nodes["vla_node"]) if "qos_overrides" in name]
    assert overrides
    assert all("./left/" in name for name in overrides)


def environment_actions(launch_file):
    return [action for action in launch_file.generate_launch_description().args[0]
            if isinstance(action, SetEnvironmentVariable)]


def test_dds_profiles_are_set_before_the_nodes_unless_the_user_did(launch_file, monkeypatch):
    monkeypatch.delenv(fastdds_variable(), raising=False)
    monkeypatch.setenv(localhost_setting({})[0], "SUBNET")
    (action,) = environment_actions(launch_file)
    name, value = action.args
    assert name == fastdds_variable()
    share, *parts = value.args[0]
    assert share.args == ("specprune_ros",)
    assert share_dir().joinpath(*parts).is_file()
    assert launch_file.generate_launch_description().args[0][0].args[0] == name
    monkeypatch.setenv(fastdds_variable(), "/home/me/mine.xml")
    assert environment_actions(launch_file) == []


def test_discovery_stays_on_this_machine_unless_the_user_says_otherwise(launch_file, monkeypatch):
    monkeypatch.setenv(fastdds_variable(), "/home/me/mine.xml")
    name, value = localhost_setting({})
    monkeypatch.delenv(name, raising=False)
    (action,) = environment_actions(launch_file)
    assert action.args == (name, value) == ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv(name, "SUBNET")
    assert environment_actions(launch_file) == []
    assert localhost_setting({"ROS_DISTRO": "humble"}) == ("ROS_LOCALHOST_ONLY", "1")


def test_a_namespace_that_ros_refuses_starts_nothing(launch_file):
    with pytest.raises(ConfigurationError, match="'a b' is not a ROS namespace"):
        start(launch_file, namespace="a b")


def test_a_suite_decides_the_frame_of_the_policy(launch_file):
    """LIBERO's poses are those in the world, whatever the parameter file says."""
    def frame(suite):
        return settings(start(launch_file, suite=suite)["vla_node"]).get("base_frame")

    assert frame("") is None
    assert frame("libero_goal") == "world"
    assert frame("tabletop_hard") == "panda_link0"


def test_libero_is_the_launch_file_of_the_nodes_with_a_suite(stand_ins):
    actions = load(LIBERO_FILE).generate_launch_description().args[0]
    declared = {a.args[0]: a.kwargs for a in actions if isinstance(a, DeclareLaunchArgument)}
    assert set(declared) == {"suite", "libero_python"}
    assert all(keywords["description"] for keywords in declared.values())
    assert declared["suite"]["choices"] == list(LIBERO_SUITES)
    assert declared["suite"]["default_value"] in LIBERO_SUITES
    default = declared["libero_python"]["default_value"]
    assert default.args == (PYTHON_VARIABLE,) and default.kwargs == {"default_value": ""}
    (variable,) = [a for a in actions if isinstance(a, SetEnvironmentVariable)]
    assert variable.args[0] == PYTHON_VARIABLE
    assert variable.args[1].args == ("libero_python",)
    (included,) = [a for a in actions if isinstance(a, IncludeLaunchDescription)]
    share, *parts = included.args[0].args[0].args[0]
    assert share.args == ("specprune_ros",) and share_dir().joinpath(*parts) == LAUNCH_FILE
    ((name, value),) = included.kwargs["launch_arguments"]
    assert (name, value.args) == ("suite", ("suite",))
    assert actions.index(variable) < actions.index(included)


@pytest.mark.parametrize("path", [LAUNCH_FILE, LIBERO_FILE], ids=lambda path: path.name)
def test_real_launch_reads_the_file(path):
    launch = pytest.importorskip("launch")
    if not hasattr(launch, "LaunchDescription"):
        pytest.skip("the module launch is not ROS's")
    pytest.importorskip("launch_ros.actions")
    description = load(path).generate_launch_description()
    names = {argument.name for argument in description.get_launch_arguments()}
    assert names > ({"libero_python"} if path == LIBERO_FILE else {a.name for a in ARGUMENTS})

