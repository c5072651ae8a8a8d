"""Every method from the same initial states: order, copies, interruption, workers, distance."""
from __future__ import annotations

import sys

import numpy as np
import pytest
from harness import STEPS, TASKS, evaluate, record, short_settings, timeless

from specprune_ros.analysis.episodes import PolicyActor, play
from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.engines import InProcess, Processes, make_engine
from specprune_ros.eval.episode import Arm
from specprune_ros.eval.evaluate import with_references
from specprune_ros.eval.summary import summarize
from specprune_ros.eval.worlds import Perturbation
from specprune_ros.policy import load_policy
from specprune_ros.sim import make_simulator
from specprune_ros.sim.tabletop.world import TabletopSimulator
from specprune_ros.sim.view import Measured

ARMS = [Arm("off"), Arm("specprune"), Arm("random"), Arm("uniform"), Arm("blank")]
FEW = ARMS[1:3]
EPISODES = 2


@pytest.fixture(scope="module")
def settings(tiny_dir):
    return short_settings(tiny_dir)


@pytest.fixture(scope="module")
def played(settings, tmp_path_factory):
    return evaluate(settings, tmp_path_factory.mktemp("played") / "log.jsonl", ARMS, EPISODES)


class Fake:
    """An engine that makes records up, the last job submitted first."""

    def __init__(self, slots=1, make=record):
        self.slots, self.make, self.submitted, self.closed = slots, make, [], False

    def submit(self, job):
        self.submitted.append(job)
        return job

    def finished(self, handles):
        assert 1 <= len(handles) <= self.slots
        return handles[-1], self.make(handles[-1])

    def close(self):
        self.closed = True


# Order and copies, with records made up ----------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3, 100])
def test_every_method_starts_from_the_same_states(settings, tmp_path, slots):
    engine = Fake(slots)
    found = evaluate(settings, tmp_path / "log", ARMS, 11, engine)
    states = [(index % TASKS, 40 + index) for index in range(11)]
    assert list(found) == ARMS
    for records in found.values():
        assert [(r["task"], r["init_state"]) for r in records] == states
    assert len(engine.submitted) == 11 * len(ARMS) and engine.closed


def test_no_method_always_comes_first(settings, tmp_path):
    engine = Fake()
    arms = [Arm("off"), Arm("fastv")]
    evaluate(settings, tmp_path / "log", arms, 2, engine)
    assert [job.arm for job in engine.submitted] == [*arms, *reversed(arms)]


@pytest.mark.parametrize("slots", [1, 4])
def test_a_copy_gets_the_counts_of_the_default_on_its_episode(settings, tmp_path, slots):
    def make(job):
        # The default keeps other numbers in each episode and under each setting.
        kept = job.init_state - 40 + (10 if job.arm.knob else 0)
        return record(job, kept=((4, 4), (kept, 1)))

    engine = Fake(slots, make)
    arms = [Arm("random"), Arm("uniform", 0.5), Arm("specprune", 0.5), Arm("off")]
    found = evaluate(settings, tmp_path / "log", arms, 3, engine)
    assert list(found) == with_references(arms)
    assert Arm("specprune") in found  # played though nobody asked
    for job in engine.submitted:
        if job.arm.method in ("random", "uniform"):
            kept = job.init_state - 40 + (10 if job.arm.knob else 0)
            full, pruned = ((4, 4), (4, 4)), ((4, 4), (kept, 1))
            assert job.counts.queries == (full, pruned, pruned)
        else:
            assert job.counts is None


def test_references_come_before_their_copies():
    noisy = Perturbation(image_noise=1)
    arms = with_references([Arm("random"), Arm("uniform"), Arm("random", None, noisy)])
    assert arms == [Arm("specprune"), Arm("random"), Arm("uniform"),
                    Arm("specprune", None, noisy), Arm("random", None, noisy)]


def test_a_method_that_is_not_available_drops_out_with_its_copies(settings, tmp_path):
    def make(job):
        if job.arm.method == "specprune":
            return {"key": job.key, "unavailable": "no such thing"}
        return record(job)

    engine = Fake(2, make)
    found = evaluate(settings, tmp_path / "log", ARMS, 4, engine)
    assert [r["unavailable"] for r in found[Arm("specprune")]] == ["no such thing"]
    assert found[Arm("random")] == [] and len(found[Arm("off")]) == 4
    again = Fake(2, make)
    evaluate(settings, tmp_path / "log", ARMS, 4, again, resume=True)
    assert again.submitted == []


def test_progress_counts_what_was_there_already(settings, tmp_path):
    told = []
    evaluate(settings, tmp_path / "log", [Arm("off")], 2, Fake())
    evaluate(settings, tmp_path / "log", [Arm("off")], 4, Fake(), resume=True,
             report=lambda done, total, record: told.append((done, total)))
    assert told == [(2, 4), (3, 4), (4, 4)]


# Real episodes -----------------------------------------------------------------------------


def test_episodes_are_those_of_the_simulator_and_the_policy(played, tiny_dir):
    """The same episode by hand."""
    simulator = make_simulator("tabletop", 64)
    policy = load_policy(tiny_dir, pruning="specprune", control_period=0.05)
    try:
        actor = PolicyActor(policy)
        steps = list(play(Measured(simulator), actor, 41, task=1, max_steps=STEPS))
    finally:
        simulator.close()
    found = played[Arm("specprune")][1]
    reports = [chunk.report for chunk in actor.chunks]
    assert found["steps"] == len(steps) == STEPS and found["success"] is steps[-1].success
    assert found["flops"] == [r.flops for r in reports]
    assert found["instruction"] == simulator.tasks[1]
    actions = np.clip([s.action for s in steps], -1, 1)
    jumps = np.linalg.norm(np.diff(actions[:, :3], axis=0), axis=1)
    assert found["seam_translation"] == pytest.approx([jumps[7], jumps[15]])
    assert found["inside_translation"] == pytest.approx(np.delete(jumps, [7, 15]).mean())
    for layer, positions in enumerate(reports[2].kept_positions):
        assert found["kept"][2][layer] == [
            int(((positions >= 1) & (positions <= 256)).sum()),
            int(((positions >= 257) & (positions <= 512)).sum())]


def test_controls_keep_what_the_default_kept(played):
    for name in ("random", "uniform"):
        for copy, default in zip(played[Arm(name)], played[Arm("specprune")]):
            assert copy["kept"] == default["kept"]
            assert copy["flops"] == default["flops"] and copy["dense"] == default["dense"]
            assert copy["seam_translation"] != default["seam_translation"]
    assert played[Arm("specprune")][0]["kept"] != played[Arm("specprune")][1]["kept"]


def test_distance_from_dense_is_that_of_pruned_queries(played, tiny_dir, tmp_path):
    """And asking for it does not change the episode."""
    settings = short_settings(tiny_dir, action_distance=True)
    arms = [Arm("off"), Arm("specprune"), Arm("blank")]
    dense, pruned, blank = (r[0] for r in evaluate(settings, tmp_path / "log", arms, 1).values())
    assert dense["distance"] == [0.0] * 3 and blank["distance"] is None
    assert pruned["distance"][0] == 0.0 and min(pruned["distance"][1:]) > 0  # the first is dense
    pruned["distance"] = None
    assert timeless({"": [pruned]}) == timeless({"": played[Arm("specprune")][:1]})


def test_a_perturbation_changes_the_episode_for_every_method_alike(tiny_dir, tmp_path):
    late = Perturbation(action_delay_steps=STEPS)
    arms = [Arm("off", None, late), Arm("off")]
    delayed, clean = evaluate(short_settings(tiny_dir), tmp_path / "log", arms, 1).values()
    # The arm never moves, so that every query sees the same and says the same.
    assert delayed[0]["seam_translation"] == pytest.approx([delayed[0]["seam_translation"][0]] * 2,
                                                           rel=0.05)
    assert delayed[0]["seam_translation"] != clean[0]["seam_translation"]


def test_an_interrupted_run_ends_as_an_unbroken_one(settings, played, tmp_path):
    class Interrupted(InProcess):
        left = 3

        def finished(self, handles):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return super().finished(handles)

    path = tmp_path / "log.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, path, FEW, EPISODES, Interrupted(settings))
    assert len(path.read_text().splitlines()) == 1 + 3
    told = []
    found = evaluate(settings, path, FEW, EPISODES, resume=True,
                     report=lambda done, total, record: told.append(done))
    assert told == [3, 4]
    assert timeless(found) == timeless({arm: played[arm] for arm in FEW})


def test_results_do_not_depend_on_the_workers(settings, played, tmp_path):
    found = evaluate(settings, tmp_path / "log", FEW, EPISODES, Processes(settings, 2))
    assert timeless(found) == timeless({arm: played[arm] for arm in FEW})


@pytest.mark.slow
def test_results_are_the_same_on_a_ray_cluster(settings, played, tmp_path):
    pytest.importorskip("ray")
    found = evaluate(settings, tmp_path / "log", FEW, EPISODES, make_engine("ray", settings, 2))
    assert timeless(found) == timeless({arm: played[arm] for arm in FEW})


def test_engines_are_checked(settings, monkeypatch):
    assert isinstance(make_engine("local", settings, None), InProcess)
    with pytest.raises(ConfigurationError, match="--workers is 0"):
        make_engine("local", settings, 0)
    with pytest.raises(ConfigurationError, match="--engine ray"):
        make_engine("local", settings, 1, "auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"specprune_ros\[ray\]"):
        make_engine("ray", settings, 1)


def test_an_address_that_does_not_answer_is_named(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", object())
    with pytest.raises(ConfigurationError, match="no Ray cluster at '127.0.0.1:9'"):
        make_engine("ray", settings, 1, "127.0.0.1:9")


def test_an_episode_ends_with_success(settings, tmp_path, monkeypatch):
    """The default is done within its dense query; the copy goes on and repeats its counts."""
    needed = {"specprune": 5, "random": 12}
    playing = []
    run = InProcess.finished

    def finished(self, handles):
        playing.append(handles[0].arm.method)
        return run(self, handles)

    monkeypatch.setattr(InProcess, "finished", finished)
    monkeypatch.setattr(
        TabletopSimulator, "success", lambda self: self._steps >= needed[playing[-1]])
    found = evaluate(settings, tmp_path / "log", FEW, 1)
    (default,), (copy,) = found[Arm("specprune")], found[Arm("random")]
    assert default["success"] and default["steps"] == 5 and len(default["flops"]) == 1
    assert copy["success"] and copy["steps"] == 12 and len(copy["flops"]) == 2
    assert copy["dense"] == [True, True] and copy["simulated_s"] == pytest.approx(0.6)
    assert summarize(found[Arm("random")], found[Arm("specprune")])["counts_repeated_queries"] == 1
