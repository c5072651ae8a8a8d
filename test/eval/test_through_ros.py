"""Episodes through the nodes over DDS: the same as in process, and an end to every trouble."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import easy_bridge
import pytest
from harness import evaluate, short_settings, timeless

import specprune_ros
from specprune_ros import cli
from specprune_ros.eval import episode
from specprune_ros.eval.episode import Arm, Job
from specprune_ros.through_ros import command

pytest.importorskip("rclpy")

from specprune_ros.ros import episode_client, planner  # noqa: E402
from specprune_ros.through_ros.engine import ThroughRos, ThroughRosError  # noqa: E402

ARMS = [Arm("off"), Arm("specprune"), Arm("random_keep")]
EPISODES = 3
ROOT = Path(specprune_ros.__file__).parents[1]


class StayingOpen:
    """An engine whose close() leaves it open, for several evaluations."""

    def __init__(self, engine):
        self._engine = engine
        self.slots, self.submit, self.finished = engine.slots, engine.submit, engine.finished

    def close(self):
        pass


@pytest.fixture(scope="module")
def engine(tiny_dir, tmp_path_factory):
    """The nodes, with a world that is solved now and then."""
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(Path(easy_bridge.__file__).parent), str(ROOT), os.environ.get("PYTHONPATH")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("ROS_DOMAIN_ID", "7")
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("logs")))
        engine = ThroughRos(short_settings(tiny_dir, through_ros=True), patience=250,
                            modules={"sim_bridge_node": "easy_bridge"})
        yield engine
        engine.close()
        assert os.environ["ROS_DOMAIN_ID"] == "7"
        assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in os.environ


@pytest.fixture(scope="module")
def in_process(tiny_dir, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episode, "make_simulator", easy_bridge.make)
        folder = tmp_path_factory.mktemp("in_process")
        yield evaluate(short_settings(tiny_dir), folder / "log", ARMS, EPISODES)


@pytest.fixture(scope="module")
def through_ros(engine, tiny_dir, tmp_path_factory):
    """The same through the nodes, in two parts: the second goes on where the first ended."""
    settings = short_settings(tiny_dir, through_ros=True)
    path = tmp_path_factory.mktemp("through_ros") / "log"
    evaluate(settings, path, ARMS, 1, StayingOpen(engine))
    told = []
    found = evaluate(settings, path, ARMS, EPISODES, StayingOpen(engine), resume=True,
                     report=lambda done, total, record: told.append((done, total)))
    assert told == [(done, 9) for done in range(3, 10)]
    return found


def test_every_episode_is_the_one_in_process(in_process, through_ros):
    """Outcome, steps, what was kept, and every action, to the last bit."""
    for arm in ARMS:
        for here, there in zip(in_process[arm], through_ros[arm], strict=True):
            for name in here.keys() - {"timing"}:
                assert json.loads(json.dumps(here[name])) == there[name], (here["key"], name)
    assert timeless(in_process) == timeless(through_ros)
    records = [record for records in in_process.values() for record in records]
    # The comparison says something: some are solved, and some within a chunk.
    assert {record["success"] for record in records} == {True, False}
    assert len({record["steps"] for record in records}) > 1
    assert any(record["steps"] % 8 for record in records if record["success"])
    digests = [digest for record in records for digest in record["chunk_digests"]]
    assert len(set(digests)) > len(digests) / 2  # the first queries of off and specprune agree


def test_actions_beyond_the_range_of_the_controller_are_the_same_in_both(engine, through_ros):
    """The checkpoint overshoots: the comparison above covers saturation."""
    assert sum(stats.saturated for stats in engine._client._stats.values()) > 0
    assert not any(record["fallbacks"] for records in through_ros.values() for record in records)


def test_times_are_those_of_the_nodes(through_ros):
    for records in through_ros.values():
        for record in records:
            timing = record["timing"]
            assert len(timing["latency_ms"]) == len(record["flops"])
            # The way to the policy and back comes on top of the query.
            for latency, age in zip(timing["latency_ms"], timing["observation_age_ms"]):
                assert 0 < latency < age
            assert sum(timing["observation_age_ms"]) < 1e3 * timing["wall_s"]
            assert "cpu_ms" not in timing


def test_the_nodes_are_processes_in_a_domain_of_their_own(engine, through_ros):
    for child in engine.group.children:
        variables = Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
        domain, = (v for v in variables if v.startswith(b"ROS_DOMAIN_ID="))
        assert domain != b"ROS_DOMAIN_ID=7"
        assert b"ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST" in variables


def test_a_method_that_the_node_does_not_know_is_refused_by_it(engine):
    with pytest.raises(ThroughRosError, match="vla_node refuses pruning=magic.*choose one of off"):
        engine.finished([Job(Arm("magic"), 0, 40)])


def test_a_node_that_dies_is_named_with_its_log(engine, through_ros):
    """The last test with these nodes."""
    vla = next(child for child in engine.group.children if child.name == "vla_node")

    def kill():
        while not engine._client._chunks:
            time.sleep(0.01)
        os.kill(vla.pid, signal.SIGKILL)

    engine._client._chunks.clear()
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ThroughRosError) as error:
        engine.finished([Job(Arm("off"), 0, 40)])
    killer.join()
    text = str(error.value)
    assert re.search(r"off, initial state 40: vla_node \(pid \d+\) was ended by SIGKILL", text)
    log = Path(re.search(r"Full log: (\S+)", text)[1])
    assert log.is_file() and log.parent == engine.log_dir and "--resume" in text
    engine.close()
    assert [child.popen.poll() is None for child in engine.group.children] == [False, False]
    assert log.is_file()


def test_an_interruption_at_the_start_leaves_nothing_behind(tiny_dir, tmp_path, monkeypatch):
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started = []

    def interrupt(*_arguments):
        started.extend(pid for pid, line in children_of(os.getpid()).items() if "sleeper" in line)
        raise KeyboardInterrupt

    monkeypatch.setattr(episode_client, "EpisodeClient", interrupt)
    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt):
        ThroughRos(short_settings(tiny_dir, through_ros=True), patience=1,
                   modules=dict.fromkeys(("vla_node", "sim_bridge_node"), "sleeper"))
    assert len(started) == 2 and not set(started) & children_of(os.getpid()).keys()
    assert dict(os.environ) == before
    assert not list(tmp_path.glob("specprune_eval_*"))


# The command -------------------------------------------------------------------------------

SHORT = ["--suite", "tabletop", "--seed", 12345, "--max-steps", 9, "--through-ros"]


def run(*arguments):
    return cli.main(["eval", *map(str, arguments)])


@pytest.mark.parametrize("changes, reason", [
    (["--methods", "off,random,uniform"], "methods random, uniform copy the counts.*random_keep"),
    (["--methods", "blank,wrong_instruction"], "blank, wrong_instruction are views"),
    (["--methods", "magic"], "unknown method magic"),
    (["--perturb", "image_noise=8"], "--perturb changes the world"),
    (["--match-flops", "0.5"], "--match-flops sets keep ratios"),
    (["--action-distance"], "--action-distance asks a second policy"),
    (["--engine", "ray"], "--engine ray plays on other machines"),
    (["--ray-address", "auto"], "the nodes run on this one"),
    (["--workers", 2], "--workers is more than 1"),
    (["--chunk-length", 25], "25 actions are played of each chunk.*--replan"),
    (["--ros-timeout", "nan"], "--ros-timeout is nan"),
    (["--checkpoint", "nowhere"], "'.*nowhere' is no checkpoint directory"),
])
def test_what_cannot_go_through_the_nodes_is_refused_with_a_reason(
        changes, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("specprune_ros.through_ros.engine.ProcessGroup.start",
                        lambda *_: pytest.fail("a node was started"))
    monkeypatch.setattr("specprune_ros.bringup.stop_on_sigterm", lambda: None)
    assert run(*SHORT, "--json", tmp_path / "out.json", *changes) == 1
    assert re.search(reason, capsys.readouterr().err)


def test_as_many_actions_are_played_as_the_node_keeps_frames():
    assert command.MAX_REPLAN == planner._READY_SETS


def test_without_ros_the_command_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert run(*SHORT, "--json", tmp_path / "out.json") == 1
    assert "specprune_ros[ros]" in capsys.readouterr().err


def children_of(pid):
    """{pid: command line} of the processes that a process has started."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_text()
    return found


@pytest.mark.timeout(700)
def test_an_interrupted_run_leaves_nothing_behind_and_is_resumed(tmp_path):
    def start(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        return subprocess.Popen(
            [sys.executable, "-m", "specprune_ros.cli", "eval", *map(str, SHORT), "--json",
             "out.json", "--methods", "off,specprune", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
            cwd=tmp_path)

    log = tmp_path / "out.episodes.jsonl"
    process = start("--episodes", 1000)
    end = time.monotonic() + 250
    while not (log.exists() and len(log.read_text().splitlines()) >= 2):
        assert time.monotonic() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    children = children_of(process.pid)
    assert len(children) == 2 and "vla_node" in "".join(children.values())
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "interrupted" in out and "Traceback" not in out
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not list(tmp_path.glob("specprune_eval_*"))

    played = len(log.read_text().splitlines()) - 1
    process = start("--episodes", max(1, played // 2), "--resume", "--report", "out.html")
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["through_ros"] is True and "rclpy" in document["versions"]
    assert document["settings"]["methods"] == "off,specprune"
    for method in document["methods"].values():
        assert {"p50", "p95"} == set(method["observation_age_ms"]) == set(method["latency_ms"])
        assert method["steps_per_episode"] == 9
    assert document["paired"]["specprune"]["n"] == document["n"]
    assert (tmp_path / "out.html").is_file()


