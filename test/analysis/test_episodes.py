"""Episodes of the embedded simulator: recorded, and counted in closed loop."""
from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from streams import assert_same, run

from specprune_ros import cli
from specprune_ros.analysis.episodes import (
    ExpertActor,
    PolicyActor,
    closed_loop,
    play,
    record_episode,
)
from specprune_ros.analysis.recording import Recording, load_recordings
from specprune_ros.errors import ConfigurationError
from specprune_ros.robot.gripper import to_env_actions
from specprune_ros.sim import SimObservation, make_simulator


class FakeWorld:
    """A world without physics that succeeds after a number of steps."""

    suite, control_period, max_steps, tasks = "fake", 0.05, 12, ("wait",)
    base_frame = tool_frame = ""
    instruction = "wait for it"

    def __init__(self, lasts: int) -> None:
        self.lasts, self.actions, self.resets, self.rendered = lasts, [], [], []

    def reset(self, task, init_state):
        self.resets.append(init_state)
        self.actions = []
        return self.observe()

    def observe(self, render=True):
        n = len(self.actions)
        if render:
            self.rendered.append(n)
        picture = np.full((32, 32, 3), n, np.uint8)
        proprio = np.array([0.45, 0.0, 0.2, np.pi, 0.0, 0.0, 0.04, -0.04])
        images = {"primary": picture, "wrist": picture} if render else {}
        return SimObservation(n * 0.05, images, proprio, ("j",),
                              np.array([float(n)]), np.zeros(1), np.full(6, 0.1 * n))

    def step(self, action):
        self.actions.append(np.array(action))
        return self.success()

    def success(self):
        return len(self.actions) >= self.lasts


class Counting:
    source = "counting"

    def start(self, simulator):
        self.calls = 0

    def act(self, simulator, observation):
        self.calls += 1
        return np.full(7, self.calls / 10)


def test_recording_holds_each_observation_before_its_action():
    world = FakeWorld(lasts=4)
    recording = record_episode(world, Counting(), seed=3)
    assert recording.steps == 4 and recording.success is True and recording.seed == 3
    np.testing.assert_allclose(recording.stamps, [0.0, 0.05, 0.1, 0.15])
    assert recording.frames[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(recording.actions[:, 0], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(recording.ee_twists[:, 2], [0.0, 0.1, 0.2, 0.3])
    assert recording.joint_positions[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert (recording.suite, recording.instruction, recording.source) == (
        "fake", "wait for it", "counting")


@pytest.mark.parametrize("limit, steps", [(None, 12), (5, 5)])
def test_an_episode_ends_with_its_time(limit, steps):
    recording = record_episode(FakeWorld(lasts=99), Counting(), seed=0, max_steps=limit)
    assert recording.steps == steps and recording.success is False


def test_policy_plays_its_chunks_and_sees_every_frame(dense):
    policy = dense.with_pruning("off")
    actor, world = PolicyActor(policy, replan=5), FakeWorld(lasts=12)
    steps = list(play(world, actor, seed=0))
    assert len(actor.chunks) == 3 and len(actor.cpu_ms) == 3  # at steps 0, 5, 10
    assert [chunk.stamp for chunk in actor.chunks] == pytest.approx([0.0, 0.25, 0.5])
    played = np.array([step.action for step in steps])
    for start, chunk in zip((0, 5, 10), actor.chunks):
        expected = to_env_actions(chunk.actions)[: len(played[start : start + 5])]
        np.testing.assert_array_equal(played[start : start + 5], expected[:5])
    stamps = [frame.stamp for frame in actor._episode.state.ring.frames]
    np.testing.assert_allclose(stamps, [0.05 * n for n in range(12)])


@pytest.mark.parametrize("method, looked_at", [
    ("off", [0, 5, 10]), ("fastv", [0, 5, 10]), ("specprune", list(range(12)))])
def test_images_nobody_looks_at_are_not_rendered_and_change_nothing(dense, method, looked_at):
    policy, played = dense.with_pruning(method), []
    for all_images in (True, False):
        actor, world = PolicyActor(policy, replan=5), FakeWorld(lasts=12)
        steps = list(play(world, actor, seed=0, all_images=all_images))
        played.append((np.array([step.action for step in steps]),
                       [chunk.report.kept_positions for chunk in actor.chunks]))
        assert world.rendered == (list(range(12)) if all_images else looked_at)
    np.testing.assert_array_equal(played[0][0], played[1][0])
    for all_kept, kept in zip(played[0][1], played[1][1]):
        for a, b in zip(all_kept, kept):
            np.testing.assert_array_equal(a, b)


def test_a_chunk_cannot_be_played_beyond_its_end(dense):
    with pytest.raises(ConfigurationError, match="a chunk has 8 actions, 9"):
        PolicyActor(dense, replan=9)


def test_closed_loop_counts_episodes_of_consecutive_states(dense):
    world = FakeWorld(lasts=10)
    found = closed_loop(world, dense.with_pruning("off"), episodes=2, seed=4).summary()
    assert world.resets == [4, 5]
    assert found["successes"] == found["episodes"] == 2 and found["success_rate"] == 1.0
    assert found["steps_mean"] == 10 and found["queries_mean"] == 2
    assert closed_loop(world, dense, 1, 0, max_steps=3).summary()["success_rate"] == 0.0


def test_only_the_tabletop_has_an_expert():
    with pytest.raises(ConfigurationError, match="'fake' has no scripted expert"):
        list(play(FakeWorld(2), ExpertActor(), seed=0))


# The embedded simulator --------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two short expert episodes through the command."""
    folder = tmp_path_factory.mktemp("recorded")
    run("record-sim", "--suite", "tabletop", "--episodes", 2, "--seed", 11, "--max-steps", 9,
        "--size", 64, "--out", folder)
    return folder


def test_record_sim(recorded):
    first, second = load_recordings(recorded)
    assert [p.name for p in sorted(recorded.iterdir())] == [
        "tabletop_00011.npz", "tabletop_00012.npz"]
    assert first.frames.shape == (9, 2, 64, 64, 3) and first.cameras == ("primary", "wrist")
    assert first.actions.shape == (9, 7) and first.proprio.shape == (9, 8)
    assert len(first.joint_names) == first.joint_positions.shape[1]
    assert (first.seed, second.seed, first.source) == (11, 12, "scripted expert")
    assert np.abs(first.ee_twists[1:]).max() > 0.05  # the expert moves
    assert first.instruction and first.success is False


def test_recording_an_episode_again_gives_the_same(recorded):
    simulator = make_simulator("tabletop", render_size=64)
    try:
        again = record_episode(simulator, ExpertActor(), 11, max_steps=9)
    finally:
        simulator.close()
    assert_same(again, Recording.load(recorded / "tabletop_00011.npz"))


def test_success_is_counted_where_a_suite_is_given(recorded, tmp_path):
    """A stream of the expert's beside the closed loop of the policy."""
    run("analyze", "thresholds", "--recording", recorded, "--factors", 1, "--max-queries", 1,
        "--suite", "tabletop", "--episodes", 1, "--max-steps", 9, "--out", tmp_path)
    loop = json.loads((tmp_path / "thresholds.json").read_text())["points"][0]["closed_loop"]
    assert loop["episodes"] == 1 and loop["successes"] == 0
    assert loop["steps_mean"] == 9 and loop["queries_mean"] == 2


def test_control_periods_must_agree(recorded, tmp_path, capsys):
    slow = tmp_path / "slow"
    first = load_recordings(recorded)[0]
    replace(first, control_period=0.1, stamps=2 * first.stamps).save(slow / "a.npz")
    given = ["analyze", "thresholds", "--recording", str(slow), "--factors", "1", "--suite",
             "tabletop", "--max-queries", "1", "--out", str(tmp_path)]
    assert cli.main(given) == 1
    assert "control period of 0.05 s, the stream one of 0.1 s" in capsys.readouterr().err
    load_recordings(recorded)[1].save(slow / "b.npz")
    assert cli.main(given) == 1
    assert "control periods of 0.05, 0.1 s" in capsys.readouterr().err
