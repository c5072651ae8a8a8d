"""specprune replay as it is used: the shipped node and checkpoint in a process, over DDS."""
from __future__ import annotations

import json

import pytest
from bags import BAG, OUTPUTS, clock, image, rewrite, text, write
from rosbags.rosbag2 import StoragePlugin

from specprune_ros import cli
from specprune_ros.replay.command import _beside_the_recorded
from specprune_ros.replay.recorded import load_run
from specprune_ros.replay.run import read_run
from specprune_ros.replay.runner import Outcome, prepare_domain

TINY = ("--checkpoint", "specprune-tiny")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, ros_environment):
    """Two replays of the recorded bag: (folders, outputs)."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("runs")
    outputs = []
    for name in ("a", "b"):
        result = subprocess.run(
            # The guard refuses some of the gripper commands of the untrained policy in the bag.
            [sys.executable, "-m", "specprune_ros.cli", "replay", str(BAG), "--out",
             str(folder / name), "--param", "guard.max_command:=100.0"],
            env=ros_environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
    return [folder / name for name in ("a", "b")], outputs


def test_two_replays_are_identical(runs):
    (a, b), _ = runs
    assert (a / "queries.jsonl").read_text() != ""
    first, second = read_run(a), read_run(b)
    assert first.summary["digest"] == second.summary["digest"]
    for one, two in zip(first.queries, second.queries, strict=True):
        assert one["actions"] == two["actions"]
        assert one["kept_hashes"] == two["kept_hashes"] and len(one["kept_hashes"]) == 8
    assert cli.main(["replay", "--diff", str(a), str(b)]) == 0


def test_the_recorded_queries_are_made_again(runs):
    """From the recorded pictures, with the recorded parameters."""
    (a, _), outputs = runs
    run, recorded = read_run(a), load_run(BAG)
    stamps = [q["stamp"] for q in recorded.queries]  # the answer to the last one is not in it
    assert [q["stamp"] for q in run.queries][:len(stamps)] == stamps
    assert [q["dense_refresh"] for q in run.queries][:2] == [True, False]
    assert "beside what was recorded" in outputs[0]
    assert run.summary["digest"] in outputs[0]


def test_the_run_says_where_it_comes_from(runs):
    (a, _), _ = runs
    summary = json.loads((a / "run.json").read_text())
    assert summary["checkpoint"]["hash"].startswith("sha256:")
    assert summary["parameters"]["use_sim_time"] is True
    assert summary["parameters"]["num_threads"] == 1
    assert summary["clock"] == "bag" and summary["versions"]["torch"]
    assert summary["bag"]["inputs"]["/joint_states"] == "joint_states"
    assert summary["sent"]["joint_states"] == summary["counters"]["joint_states_received"]
    assert (a / "vla_node.log").read_text()


def test_a_plain_bag_of_foreign_topics_gives_the_same(runs, specprune, tmp_path):
    """SQLite, no notes, no clock, no outputs, other names: what ros2 bag records of a robot."""
    (a, _), _ = runs
    names = {"/camera/primary/image_raw/compressed": "/front/image/compressed",
             "/camera/wrist/image_raw/compressed": "/gripper/color/compressed",
             "/joint_states": "/arm/state"}
    bag = rewrite(tmp_path / "bag", StoragePlugin.SQLITE3, names,
                  (*OUTPUTS, "/clock", "/instruction", "/parameter_events",
                   "/vla_node/transition_event"), version=9)
    task = read_run(a).queries[0]["instruction"]
    result = specprune(
        "replay", bag, "--out", "run", *TINY, "--instruction", task,
        "--remap", "/front/image/compressed:=camera/primary/image_raw",
        "--remap", "/gripper/color/compressed:=camera/wrist/image_raw",
        "--param", "replan_steps:=8", "--param", "guard.max_command:=100.0", "--json", "-")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["clock"] == "stamps" and summary["instruction"] == task
    mine, theirs = read_run(tmp_path / "run").queries, read_run(a).queries
    assert [{**q, "episode": 0, "time": 0} for q in mine] == [
        {**q, "episode": 0, "time": 0} for q in theirs]


# --- what can be wrong -------------------------------------------------------------------------

def replay(*words):
    return cli.main(["replay", *map(str, words)])


@pytest.fixture
def broken(tmp_path):
    """A copy of the bag, to be broken."""
    path = rewrite(tmp_path / "bag", until=60)
    return path, path / "bag.mcap"


def test_broken_bags_are_named_before_anything_is_started(broken, tmp_path, capsys):
    path, file = broken
    out = tmp_path / "run"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert replay(path, "--out", out) == 1
    assert "mcap recover" in capsys.readouterr().err
    file.write_bytes(b"")
    assert replay(path, "--out", out) == 1
    assert "empty" in capsys.readouterr().err
    (path / "metadata.yaml").unlink()
    for wrong in (path, tmp_path / "nothing"):
        assert replay(wrong, "--out", out) == 1
        assert "does not exist, or is a folder without metadata.yaml" in capsys.readouterr().err
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    assert replay(tmp_path / "old.bag", "--out", out) == 1
    assert "ROS 1" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("words, message", [
    (["--param", "prunning:=off"], "no parameter prunning; did you mean pruning?"),
    (["--param", "pruning"], "write name:=value"),
    (["--param", "cameras:=primary"], "write cameras:=[primary, wrist]"),
    (["--param", "cameras:=[primary, wrist_2]"], "no camera wrist_2"),
    (["--remap", "/joints:=joint_states"], "has no such topic"),
    (["--urdf", "none.urdf"], "there is no such file"),
    (["--params-file", "none.yaml"], "no parameter file"),
    (["--json", "/proc/nowhere/x.json"], "cannot write"),
])
def test_wrong_options_are_named(words, message, tmp_path, capsys):
    assert replay(BAG, "--out", tmp_path / "run", *words) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--patience", "0"], ["--domain-id", "500"]])
def test_wrong_usage_is_status_2(words, tmp_path):
    assert replay(BAG, "--out", tmp_path / "run", *words) == 2


def test_replayed_actions_stay_on_this_machine_unless_a_domain_is_named():
    robot = {"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
             "ROS_STATIC_PEERS": "arm"}
    environment = dict(robot)
    lock = prepare_domain(environment, None)
    assert environment["ROS_DOMAIN_ID"] != "7" and "ROS_STATIC_PEERS" not in environment
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    lock.close()
    environment = dict(robot)
    assert prepare_domain(environment, 9) is None
    assert environment["ROS_DOMAIN_ID"] == "9" and environment["ROS_STATIC_PEERS"] == "arm"


def test_a_folder_with_other_files_is_not_written_to(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    assert replay(BAG, "--out", tmp_path) == 1
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_that_is_not_there_is_the_nodes_fault(specprune, tmp_path):
    result = specprune("replay", BAG, "--out", "run", "--checkpoint", tmp_path / "none")
    assert result.returncode == 1
    assert "vla_node reports a fault" in result.stderr and "does not exist" in result.stderr


@pytest.mark.slow
def test_a_node_that_ends_is_an_error_with_its_last_words(specprune):
    result = specprune("replay", BAG, "--out", "run", *TINY, "--param", "chunk_length:=none")
    assert result.returncode == 1
    assert "vla_node" in result.stderr and "chunk_length" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_bag_without_a_query_is_an_error_that_says_why(specprune, tmp_path):
    bag = write(tmp_path / "bag", [
        ("/instruction", 1.0, text("lift")),
        *((topic, at, message(at)) for at in (1.0, 1.05) for topic, message in (
            ("/clock", clock), ("/camera/primary/image_raw", image),
            ("/camera/wrist/image_raw", image)))])
    result = specprune("replay", bag, "--out", "run", *TINY)
    assert result.returncode == 1
    assert "made no query" in result.stderr and "joint_states: nothing received" in result.stderr
    assert "--urdf FILE" in result.stderr


def test_beside_the_recorded_another_checkpoint_is_told():
    recorded = load_run(BAG).queries
    summary = {"bag": {"recorded_with": {"checkpoint": {"hash": "sha256:1"}}},
               "checkpoint": {"hash": "sha256:2"}}
    lines = _beside_the_recorded(Outcome(summary, recorded[1:], recorded))
    assert "not the one" in lines[0] and "1 recorded queries were not made again" in lines[-1]
