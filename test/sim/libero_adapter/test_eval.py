"""``specprune eval`` and ``record-sim`` on LIBERO's double, from the arguments to the files."""
from __future__ import annotations

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest

from specprune_ros import cli
from specprune_ros.analysis.recording import Recording
from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.worlds import Perturbation, Perturbed, WrongInstruction
from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.robot.proprio import ProprioSpec, proprio_vector
from specprune_ros.sim.libero.suites import PYTHON_VARIABLE

SHORT = ["--checkpoint", "specprune-tiny", "--suite", "libero_goal", "--max-steps", 9]


def run(*arguments):
    return cli.main(["eval", *map(str, arguments)])


def test_two_tasks_and_two_trials_of_every_method(libero, tmp_path, envs, capsys):
    assert run(*SHORT, "--episodes", 4, "--methods", "off,specprune",
               "--json", tmp_path / "out.json", "--report", tmp_path / "out.html") == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["init_states"] == {
        "first": 0, "last": 3, "kind": "50 of each of 2 tasks, as published"}
    assert document["versions"]["simulator"] == (
        "hf-libero 0.1.4, robosuite 1.4.0, mujoco 3.8.1")
    for method in document["methods"].values():
        assert method["n"] == 4 and method["steps_per_episode"] <= 9
        assert [(t["task"], t["n"]) for t in method["tasks"]] == [(0, 2), (1, 2)]
    assert document["methods"]["specprune"]["decoder_flops_ratio"] < 1.0
    lines = (tmp_path / "out.episodes.jsonl").read_text().splitlines()[1:]
    keys = [json.loads(line)["key"] for line in lines]
    for name in ("off", "specprune"):
        played = [key.split("|")[2:] for key in keys if key.startswith(f"{name}||")]
        assert played == [["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"]]
    # The scene of a task is built once; the two tasks' are closed by what follows.
    assert envs.CLOSED == ["open_the_drawer", "put_the_bowl_on_the_plate"]
    shown = capsys.readouterr().out
    assert "layout of the paper" in shown and "98.2/72.4" in shown
    ours = [line for line in shown.splitlines() if line.split()[:1] == ["ours"]]
    assert len(ours) == 5 and all(line.split() == ["ours"] for line in ours)  # untrained
    assert "In the layout of the paper" in (tmp_path / "out.html").read_text()


def test_a_process_plays_the_same_episodes(libero, tmp_path, environment, monkeypatch):
    assert run(*SHORT, "--episodes", 2, "--seed", 3, "--methods", "specprune",
               "--json", tmp_path / "here.json") == 0
    environment.setenv("PYTHONPATH", str(libero.path))
    environment.setattr(sys, "path", [p for p in sys.path if p != str(libero.path)])
    environment.setenv(PYTHON_VARIABLE, "overridden")
    assert run(*SHORT, "--episodes", 2, "--seed", 3, "--methods", "specprune",
               "--libero-python", sys.executable, "--json", tmp_path / "there.json") == 0
    assert os.environ[PYTHON_VARIABLE] == sys.executable
    timeless = [
        [{k: v for k, v in json.loads(line).items() if k != "timing"}
         for line in (tmp_path / f"{name}.episodes.jsonl").read_text().splitlines()]
        for name in ("here", "there")
    ]
    assert timeless[0] == timeless[1]
    assert [(r["task"], r["init_state"]) for r in timeless[0][1:]] == [(0, 2), (1, 1)]


def test_a_method_that_compares_no_frames_is_shown_none_in_between(make, tmp_path, envs):
    """Nine steps and a query every four: three pictures of each camera, not nine."""
    assert run(*SHORT, "--episodes", 1, "--replan", 4, "--methods", "off",
               "--json", tmp_path / "out.json") == 0
    # A fresh environment looks at each camera three times when it is reset, and once when built.
    during = envs.RENDERS.count("agentview") - _renders_of_a_reset(envs, make)
    assert during == 3


def _renders_of_a_reset(envs, make_simulator):
    before = envs.RENDERS.count("agentview")
    make_simulator("libero_goal").reset(0, 0)
    return envs.RENDERS.count("agentview") - before - 1  # reset() itself looks once


@pytest.mark.parametrize("changes, message", [
    (["--episodes", 101], "libero_goal has 100 episodes.*none 100"),
    (["--seed", 98, "--episodes", 3], "libero_goal has 100 episodes.*none 100"),
    (["--seed", -1], "seeds are 0 or greater"),
    (["--episodes", 0], "at least one"),
    (["--match-flops", "0.5"], "those of libero_goal are all for results"),
    (["--suite", "tabletop", "--libero-python", "python3"], "no effect on suite 'tabletop'"),
    (["--libero-python", "/no/python"], "SPECPRUNE_LIBERO_PYTHON is '/no/python'"),
])
def test_what_cannot_be_run_is_refused_before_an_episode(
        libero, environment, changes, message, tmp_path, capsys):
    environment.setenv(PYTHON_VARIABLE, "")  # so that it is put back
    assert run(*SHORT, "--json", tmp_path / "out.json", *changes) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out.episodes.jsonl").exists()


def test_noise_is_that_of_the_arms_joints_and_leaves_the_base(make):
    simulator = make("libero_10")
    clean = simulator.reset(1, 2)
    noisy = Perturbed(simulator, Perturbation(joint_noise=0.01)).reset(1, 2)
    difference = dict(zip(clean.joint_names, noisy.joint_positions - clean.joint_positions))
    moved = {name for name, value in difference.items() if value}
    assert moved == {f"panda_joint{i}" for i in range(1, 8)}
    kinematics = ArmKinematics.from_urdf(
        simulator.robot_description(), simulator.base_frame, simulator.tool_frame)
    positions = dict(zip(noisy.joint_names, noisy.joint_positions))
    pose = kinematics.pose(positions)
    assert noisy.proprio == pytest.approx(proprio_vector(pose, positions, ProprioSpec()), abs=1e-9)


def test_other_instructions_are_those_of_the_scene(make):
    wrong = WrongInstruction(make("libero_goal"))
    wrong.reset(0, 0)
    assert wrong.instruction == "put the bowl on the plate"
    with pytest.raises(ConfigurationError, match="no other instruction"):
        WrongInstruction(make("libero_object")).reset(0, 0)


def test_a_worker_with_another_libero_is_refused(copied, tmp_path, capsys):
    assert run(*SHORT, "--episodes", 1, "--methods", "off", "--json", tmp_path / "o.json") == 0
    copied.distribution("mujoco", "3.8.0")
    assert run(*SHORT, "--episodes", 2, "--methods", "off", "--json", tmp_path / "o.json",
               "--resume") == 1
    assert "mujoco 3.8.0" in capsys.readouterr().err


def test_the_suites_statistics_are_taken_of_several(libero, tmp_path, tiny_dir, capsys):
    checkpoint = tmp_path / "several"
    shutil.copytree(tiny_dir, checkpoint)
    file = checkpoint / "dataset_statistics.json"
    (statistics,) = json.loads(file.read_text()).values()
    more = dict.fromkeys(("libero_goal_no_noops", "libero_10_no_noops"), statistics)
    file.write_text(json.dumps(more))
    common = ["--max-steps", 1, "--episodes", 1, "--methods", "off", "--checkpoint", checkpoint]
    assert run("--suite", "libero_goal", *common, "--json", tmp_path / "goal.json") == 0
    head = json.loads((tmp_path / "goal.episodes.jsonl").read_text().splitlines()[0])
    assert head["settings"]["unnorm_key"] == "libero_goal"
    assert run("--suite", "libero_object", *common, "--json", tmp_path / "object.json") == 1
    assert "choose one with unnorm_key" in capsys.readouterr().err


def test_episodes_are_recorded(libero, tmp_path, capsys):
    common = ["record-sim", "--suite", "libero_10", "--out", tmp_path, "--size", 32]
    assert cli.main(list(map(str, common))) == 1
    assert "no scripted expert" in capsys.readouterr().err
    assert cli.main(list(map(str, [*common, "--actor", "policy", "--max-steps", 5, "--seed", 3,
                                   "--task", 1]))) == 0
    (path,) = tmp_path.glob("*.npz")
    recording = Recording.load(path)
    assert recording.suite == "libero_10" and recording.steps == 5
    assert recording.instruction == "put both in the basket"
    assert recording.frames.shape[2:] == (32, 32, 3) and np.ptp(recording.frames[-1]) > 0
