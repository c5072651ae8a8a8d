"""Bring-up: the table of nodes, child processes that die together, the DDS environment."""
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from specprune_ros import bringup
from specprune_ros.bringup import (
    ARGUMENTS,
    NODES,
    find_params_file,
    launch_nodes,
    node_command,
    prepare_environment,
    reserve_domain,
    split_ros_args,
)
from specprune_ros.errors import ConfigurationError
from specprune_ros.processes import ProcessDied, ProcessGroup
from specprune_ros.share import share_dir

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [sys.executable, "-c",
            "import signal, time\n"
            "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('up', flush=True); time.sleep(600)"]


def wait_for(condition, timeout=60.0):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# --- the table ------------------------------------------------------------------------------


def test_every_node_has_a_module_an_executable_and_a_section():
    sections = yaml.safe_load((share_dir() / "config/vla.yaml").read_text())
    entry_points = (share_dir() / "setup.py").read_text() if (
        share_dir() / "setup.py").is_file() else None
    for spec in NODES:
        assert find_spec(spec.module)
        assert f"/**/{spec.name}" in sections, "sections match nodes in any namespace"
        if entry_points:
            assert f"{spec.executable} = {spec.module}:main" in entry_points


def test_arguments_are_parameters_of_the_section_of_their_node():
    sections = yaml.safe_load((share_dir() / "config/vla.yaml").read_text())
    for argument in ARGUMENTS:
        assert argument.name in sections[f"/**/{argument.node}"]["ros__parameters"]
        assert argument.help


def test_the_file_holds_every_parameter_of_the_bridge_at_its_default():
    pytest.importorskip("rclpy")
    from specprune_ros.ros.sim_parameters import SIM_BRIDGE_PARAMETERS

    written = yaml.safe_load((share_dir() / "config/vla.yaml").read_text())[
        "/**/sim_bridge_node"]["ros__parameters"]
    declared = {spec.name: list(spec.default) if isinstance(spec.default, tuple) else spec.default
                for spec in SIM_BRIDGE_PARAMETERS}
    assert written == declared


def test_a_value_goes_to_its_node_and_an_empty_one_nowhere():
    values = {"device": "cuda", "suite": "tabletop", "dtype": "", "pruning": None}
    nodes = {spec.name: parameters for spec, parameters in launch_nodes(values)}
    assert nodes["vla_node"]["device"] == "cuda"
    assert nodes["sim_bridge_node"]["suite"] == "tabletop"
    assert not {"dtype", "pruning", "suite"} & set(nodes["vla_node"])


def test_real_robots_keep_best_effort_inputs():
    nodes = launch_nodes({}, sim=False)
    assert [spec.name for spec, _ in nodes] == ["vla_node", "chunk_player_node"]
    assert all(parameters == {"use_sim_time": False} for _, parameters in nodes)


def test_the_player_runs_beside_the_simulation_only_where_its_output_is_named():
    def names(output):
        return [spec.name for spec, _ in launch_nodes({"output": output})]

    assert names("") == names("none") == names(None) == ["vla_node", "sim_bridge_node"]
    nodes = {spec.name: parameters for spec, parameters in launch_nodes({"output": "twist"})}
    assert nodes["chunk_player_node"] == {"use_sim_time": True, "output": "twist"}


NODE_SCRIPT = """
import sys, rclpy
rclpy.init(args=sys.argv)
node = rclpy.create_node("vla_node")
values = {name: node.declare_parameter(name, default).value for name, default in
          (("pruning", ""), ("n", 0), ("checkpoint", ""), ("autostart", True))}
print(node.get_namespace(), values)
node.destroy_node()
rclpy.shutdown()
"""


def test_parameters_arrive_as_they_are_written(tmp_path, monkeypatch):
    """Strings that YAML reads as something else stay strings; sections match in a namespace."""
    pytest.importorskip("rclpy")
    (tmp_path / "p.yaml").write_text("/**/vla_node:\n  ros__parameters: {n: 5, pruning: file}\n")
    spec = NODES[0]
    command = node_command(spec, tmp_path / "p.yaml",
                           {"pruning": "off", "checkpoint": 'a "b" \\ c: #', "autostart": False},
                           namespace="left", ros_args=["-p", "n:=7"])
    assert command[1:3] == ["-m", spec.module]
    environment = dict(os.environ)
    # Tests with nodes in the same process have left the domain of theirs here.
    environment.pop("ROS_DOMAIN_ID", None)
    prepare_environment(environment).close()
    result = subprocess.run([sys.executable, "-c", NODE_SCRIPT, *command[3:]],
                            capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "/left " + repr(
        {"pruning": "off", "n": 7, "checkpoint": 'a "b" \\ c: #', "autostart": False}), (
            result.stderr)


def test_a_node_can_be_started_at_its_defaults():
    assert node_command(NODES[0], None) == [
        sys.executable, "-m", NODES[0].module, "--ros-args"]


@pytest.mark.parametrize("namespace", ["a b", "1left", "a//b", "a-b", "//", "~", "a/2", "a\n"])
def test_a_namespace_that_ros_refuses_is_named_and_starts_nothing(namespace, monkeypatch, capsys):
    monkeypatch.setattr(bringup, "stop_on_sigterm", lambda: None)
    monkeypatch.setattr(bringup, "prepare_environment", lambda _environment: None)
    monkeypatch.setattr(ProcessGroup, "start", lambda *_: pytest.fail("a node was started"))
    assert bringup.main(["--namespace", namespace]) == 1
    error = capsys.readouterr().err
    assert f"{namespace!r} is not a ROS namespace" in error
    assert "lab/left" in error


@pytest.mark.parametrize("namespace", ["", "/", "left", "/left", "lab/left", "/lab/arm_2/"])
def test_a_valid_namespace_is_taken(namespace):
    bringup.check_namespace(namespace)


def test_ros_args_are_split_off():
    assert split_ros_args(["--no-sim", "--ros-args", "-p", "a:=1", "--", "--namespace", "x"]) == (
        ["--no-sim", "--namespace", "x"], ["-p", "a:=1"])
    assert split_ros_args(["--no-sim"]) == (["--no-sim"], [])


def test_a_missing_parameter_file_is_named():
    with pytest.raises(ConfigurationError, match="nowhere.yaml.*config/vla.yaml"):
        find_params_file("nowhere.yaml")


# --- DDS environment ------------------------------------------------------------------------


def test_each_run_gets_a_domain_of_its_own_and_stays_on_the_machine():
    first, second = {}, {}
    locks = [prepare_environment(first), prepare_environment(second)]
    try:
        assert first["ROS_DOMAIN_ID"] != second["ROS_DOMAIN_ID"]
        assert first["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
        profiles = [value for name, value in first.items() if "DEFAULT_PROFILES_FILE" in name]
        assert len(profiles) == 1
        assert Path(profiles[0]).is_file()
    finally:
        for lock in locks:
            lock.close()


def test_what_the_user_set_stays():
    mine = {"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
            "FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml", "FASTRTPS_DEFAULT_PROFILES_FILE": "/m"}
    environment = dict(mine)
    assert prepare_environment(environment) is None
    assert {name: environment[name] for name in mine} == mine


def test_humble_is_kept_on_the_machine_by_its_own_variable():
    environment = {"ROS_DISTRO": "humble", "ROS_DOMAIN_ID": "7"}
    prepare_environment(environment)
    assert environment["ROS_LOCALHOST_ONLY"] == "1"
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in environment


def test_a_closed_lock_frees_the_domain(monkeypatch):
    domain, lock = reserve_domain()
    monkeypatch.setattr(bringup, "_DOMAINS", [domain])  # one that no other test is using
    with pytest.raises(ConfigurationError, match="ROS_DOMAIN_ID"):
        reserve_domain()
    lock.close()
    again, lock = reserve_domain()
    lock.close()
    assert again == domain


def test_what_a_killed_run_has_left_behind_is_not_shared(monkeypatch):
    """Its first participant is gone, another of its processes is still there."""
    domain, lock = reserve_domain()
    monkeypatch.setattr(bringup, "_DOMAINS", [domain])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as orphan:
        orphan.bind(("", 7400 + 250 * domain + 10 + 2 * 3))  # participant 3
        lock.close()
        with pytest.raises(ConfigurationError, match="no free ROS domain"):
            reserve_domain()
    reserve_domain()[1].close()


# --- processes ------------------------------------------------------------------------------


def test_children_are_stopped_even_if_they_ignore_signals(tmp_path):
    with ProcessGroup(tmp_path) as group:
        group.start({"sleeper": SLEEP, "stubborn": STUBBORN})
        assert wait_for(lambda: all("up" in child.tail() for child in group.children))
        group.check()
        group.stop(interrupt_s=0.5, terminate_s=0.5)
    codes = [child.popen.returncode for child in group.children]
    # On a busy machine the obedient one may be reached by the second, harder request first.
    assert codes[0] in (-signal.SIGINT, -signal.SIGTERM)
    assert codes[1] == -signal.SIGKILL


def test_an_error_in_the_parent_stops_the_children():
    with pytest.raises(ZeroDivisionError), ProcessGroup() as group:
        group.start({"sleeper": SLEEP})
        raise ZeroDivisionError
    assert group.children[0].popen.returncode is not None


def test_a_dead_child_is_named_with_its_last_words(tmp_path):
    with ProcessGroup(tmp_path) as group:
        group.start({"sleeper": SLEEP, "vla_node": [
            sys.executable, "-c", "print('no checkpoint there'); raise SystemExit(3)"]})
        assert wait_for(group.ended)
        with pytest.raises(ProcessDied) as death:
            group.check()
    text = str(death.value)
    assert re.search(r"vla_node \(pid \d+\) exited with 3", text)
    assert "no checkpoint there" in text
    assert str(tmp_path / "vla_node.log") in text
    assert (tmp_path / "vla_node.log").read_text() == "no checkpoint there\n"


def test_output_is_echoed_line_by_line_with_the_name():
    lines = []
    with ProcessGroup(echo=lines.append) as group:
        group.start({"talker": [sys.executable, "-c", "print('one'); print('two')"]})
        assert wait_for(group.ended)
    assert lines == ["[talker] one", "[talker] two"]


PARENT = """
import sys, time
sys.path[:0] = {path!r}
from specprune_ros.processes import ProcessGroup
group = ProcessGroup()
group.start({{"sleeper": {sleep!r}}})
print(group.children[0].pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses Linux's prctl")
def test_children_die_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(path=sys.path, sleep=SLEEP)],
                              stdout=subprocess.PIPE, text=True)
    with parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    assert wait_for(lambda: not alive(child))


def run_module(*arguments, tmp_path):
    """``python -m specprune_ros`` with its output in a file."""
    environment = {**os.environ, "ROS_LOG_DIR": str(tmp_path)}
    environment.pop("ROS_DOMAIN_ID", None)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(bringup.__file__).parents[1]), environment.get("PYTHONPATH", "")])
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "specprune_ros", *arguments],
                                   stderr=file, env=environment, cwd=tmp_path)
    return process, log


def child_pids(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_every_node(tmp_path, signum):
    pytest.importorskip("rclpy")
    process, log = run_module(tmp_path=tmp_path)
    try:
        assert wait_for(lambda: "[sim_bridge_node]" in log.read_text()
                        and "[vla_node]" in log.read_text(), 120), log.read_text()
        children = child_pids(process.pid)
        assert len(children) == 2
        process.send_signal(signum)
        assert process.wait(60) == 0, log.read_text()
        assert not [pid for pid in children if alive(pid)]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_node_that_cannot_start_ends_the_bring_up_with_its_name(tmp_path):
    pytest.importorskip("rclpy")
    process, log = run_module("--suite", "moon", tmp_path=tmp_path)
    try:
        assert process.wait(120) == 1
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert re.search(r"specprune_ros: sim_bridge_node \(pid \d+\) exited with 1", log.read_text())
    assert "unknown suite 'moon'" in log.read_text()
