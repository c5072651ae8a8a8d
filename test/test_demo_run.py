"""specprune demo as a user runs it: two nodes in processes of their own, over DDS."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import specprune_ros

cv2 = pytest.importorskip("cv2")
pytest.importorskip("rclpy")
pytest.importorskip("mujoco")


def run_demo(folder, *arguments):
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("ROS_DOMAIN_ID", None)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(specprune_ros.__file__).parents[1]), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "specprune_ros.cli", "demo", "--headless", *map(str, arguments)],
        capture_output=True, text=True, env=environment, cwd=folder, timeout=280)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    process = run_demo(folder, "--seconds", 5, "--json", "out.json", "--checkpoint",
                       "specprune-tabletop", "--seed", 3)
    assert process.returncode == 0, process.stdout + process.stderr
    return process, folder, json.loads((folder / "out.json").read_text())


def test_results_have_the_agreed_form(finished):
    _, _, result = finished
    assert result["chunks"] > 0
    assert result["queries"] == result["chunks"]
    assert 0 <= result["successes"] <= result["episodes"]
    assert 0.0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p95"]
    assert 0 < result["kept_visual_tokens_mean"] <= result["dense_visual_tokens"] == 512
    assert sum(result["mode_shares"].values()) == pytest.approx(1.0, abs=1e-3)
    assert result["seconds"] >= 5.0
    assert (result["checkpoint"], result["pruning"]) == ("specprune-tabletop", "specprune")


def test_the_nodes_were_processes_of_their_own_and_are_gone(finished):
    _, _, result = finished
    names = [process["name"] for process in result["processes"]]
    assert names == ["vla_node", "sim_bridge_node", "specprune demo"]
    pids = {process["pid"] for process in result["processes"]}
    assert len(pids) == 3
    for pid in pids:
        command = Path(f"/proc/{pid}/cmdline")
        assert not command.exists() or b"specprune" not in command.read_bytes()


def test_the_video_shows_the_run(finished):
    _, folder, _ = finished
    video = cv2.VideoCapture(str(folder / "out/demo.mp4"))
    ok, frame = video.read()
    assert ok
    assert frame.shape == (540, 904, 3)
    assert frame[:448].std() > 10.0  # a picture, not one color


def test_progress_and_table_are_printed(finished):
    process, _, result = finished
    assert "chunks" in process.stdout
    assert "visual tokens kept" in process.stdout
    if result["trained"] is False:
        assert "not trained" in process.stdout


def test_a_checkpoint_that_cannot_be_loaded_ends_the_demo_with_the_fault(tmp_path):
    process = run_demo(tmp_path, "--seconds", 5, "--checkpoint", "no_such_checkpoint",
                       "--json", "out.json")
    assert process.returncode == 1
    assert "vla_node reports a fault" in process.stderr
    assert "no_such_checkpoint" in process.stderr
    assert not (tmp_path / "out.json").exists()


def test_a_node_that_dies_ends_the_demo_with_its_name(tmp_path):
    process = run_demo(tmp_path, "--seconds", 5, "--suite", "moon")
    assert process.returncode == 1
    assert "sim_bridge_node" in process.stderr
    assert "unknown suite 'moon'" in process.stderr
