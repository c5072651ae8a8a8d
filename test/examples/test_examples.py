"""The plug-ins of examples/ work as an installed package, through the command and in Python."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from specprune_ros.errors import ConfigurationError, SimulatorError
from specprune_ros.policy import Observation, load_policy
from specprune_ros.sim.view import Measured

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from specprune_examples.centre_pruner import CentrePruner  # noqa: E402
from specprune_examples.colour_backbone import PatchColours, load, write  # noqa: E402
from specprune_examples.touch_world import COLOURS, TouchWorld  # noqa: E402


def specprune(environment, *arguments):
    result = subprocess.run([sys.executable, "-m", "specprune_ros.cli", *map(str, arguments)],
                            env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def test_command_finds_pruner_simulator_and_backbone_by_name(examples_env, tmp_path):
    colours, out = tmp_path / "colours", tmp_path / "out.json"
    write(colours)
    specprune(examples_env, "eval", "--suite", "touch", "--methods", "off,centre", "--episodes", 2,
              "--max-steps", 16, "--checkpoint", colours, "--json", out)
    result = json.loads(out.read_text())
    assert result["suite"] == "touch" and result["n"] == 2
    assert result["methods"]["off"]["kept_visual_tokens_mean"] == 512
    per_layer = result["methods"]["centre"]["kept_visual_tokens_per_layer"]["primary"]
    assert per_layer[0] == 256 and set(per_layer[1:]) == {64}


def pictures(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: draw.integers(0, 256, (224, 224, 3), np.uint8) for name in ("primary", "wrist")}


def query(policy, images):
    return policy.predict(Observation(images, "touch the red disc", np.zeros(8)),
                          policy.make_episode())


def test_pruner_drops_the_border_and_nothing_else(tiny_dir):
    policy = load_policy(tiny_dir, pruning=CentrePruner(side=0.25))
    report = query(policy, pictures()).report
    first, later = report.kept_positions[0], report.kept_positions[1]
    assert len(first) - len(later) == 2 * (256 - 16)
    grid = np.arange(256).reshape(16, 16)[6:10, 6:10].ravel()
    visual = later[(later > 0) & (later <= 512)]
    assert visual.tolist() == sorted([*(1 + grid), *(257 + grid)])


def test_pruner_that_keeps_the_whole_picture_is_dense(tiny_dir):
    dense = load_policy(tiny_dir, pruning="off")
    whole = dense.with_pruning(CentrePruner(side=1.0))
    assert np.array_equal(query(dense, pictures()).actions, query(whole, pictures()).actions)


def test_backbone_sees_the_colours_of_patches_and_nothing_finer(tmp_path):
    write(tmp_path / "colours")
    loaded = load(tmp_path / "colours", "cpu", "float32", "l1")
    assert isinstance(loaded.model, PatchColours)
    frame = np.zeros((1, 6, 224, 224), np.float32)
    frame[0, 0, :14, :14] = np.random.default_rng(0).random((14, 14))
    shuffled = frame.copy()
    shuffled[0, 0, :14, :14] = frame[0, 0, :14, :14][::-1]
    a, b = (loaded.model.encode_images(torch.from_numpy(x)) for x in (frame, shuffled))
    assert a.shape == (1, 256, 128)
    assert torch.allclose(a, b, atol=1e-6) and a[0, 0, 0] != a[0, 1, 0]


def test_world_is_solved_by_going_to_the_disc():
    world = Measured(TouchWorld(64))  # checks proprio against the URDF
    for seed in range(4):
        seen = world.reset(None, seed)
        colour = list(COLOURS)[seed % 2]
        assert world.instruction == f"touch the {colour} disc"
        for _ in range(world.max_steps):
            goal = np.array([*world._discs[seed % 2], 0.0])
            motion = np.clip((goal - seen.proprio[:3]) / 0.05, -1, 1)
            done = world.step(np.array([*motion, 0, 0, 0, -1.0]))
            seen = world.observe()
            if done:
                break
        assert done
        target = (seen.images["wrist"][20:44, 20:44] == COLOURS[colour]).all(axis=-1)
        assert target.any()


def test_world_does_not_touch_the_other_disc():
    world = TouchWorld(64)
    world.reset(0, 3)
    world._tool = np.array([*world._discs[1], 0.0])
    assert not world.success()


def test_world_says_what_it_cannot_do():
    with pytest.raises(SimulatorError, match="view"):
        TouchWorld(view=True)
    with pytest.raises(ConfigurationError, match="tasks 0 to 1"):
        TouchWorld(64).reset(2, 0)
