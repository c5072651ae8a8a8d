"""The files of specprune demo: refused before nodes start, written after the table."""
import argparse
import json
from pathlib import Path

import pytest

from specprune_ros import cli, demo
from specprune_ros.demo import runner
from specprune_ros.demo.outputs import check_outputs
from specprune_ros.demo.results import Tally, as_json
from specprune_ros.errors import ConfigurationError, SpecpruneError
from specprune_ros.processes import ProcessGroup


@pytest.fixture
def no_nodes(monkeypatch, tmp_path):
    """The demo in an empty folder, where starting a node fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROS_DOMAIN_ID", "77")
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setattr(runner, "stop_on_sigterm", lambda: None)
    monkeypatch.setattr(runner, "prepare_environment", lambda _environment: None)
    monkeypatch.setattr(ProcessGroup, "start", lambda *_: pytest.fail("a node was started"))
    return tmp_path


@pytest.mark.parametrize("option", ["--json", "--video"])
@pytest.mark.parametrize(("path", "said"), [
    ("folder", "is a folder; name a file"),
    ("/proc/x/y.out", "the folder /proc/x cannot be made"),
    ("/proc/y.out", "cannot be written"),
    ("/dev/null/x.out", "/dev/null is not a folder")])
def test_a_path_that_cannot_be_written_is_refused_before_nodes_start(
        no_nodes, capsys, option, path, said):
    (no_nodes / "folder").mkdir()
    assert cli.main(["demo", option, path]) == 1
    error = capsys.readouterr().err
    assert f"{option} {path}" in error
    assert said in error
    assert "name a file" in error


def test_one_file_for_both_is_refused(no_nodes):
    with pytest.raises(ConfigurationError, match="both name"):
        check_outputs(Path("a.out"), no_nodes / "a.out")


def test_the_check_makes_folders_and_leaves_files_as_they_are(tmp_path):
    (tmp_path / "old.json").write_text("old")
    check_outputs(tmp_path / "old.json", tmp_path / "new" / "deep" / "film.mp4")
    assert (tmp_path / "old.json").read_text() == "old"
    assert (tmp_path / "new" / "deep").is_dir()
    assert not (tmp_path / "new" / "deep" / "film.mp4").exists()
    check_outputs(None, None)


# --- after the run --------------------------------------------------------------------------


def finish(monkeypatch, path, video_error=None, before_writing=lambda: None):
    """run_demo with a run that has already happened."""
    tally = Tally()
    tally.add_chunk(0.01)
    tally.add_stats([256, 256], [200, 180], [], mode=0)
    result = as_json(tally, seconds=5.0, checkpoint="small", trained=True, pruning="specprune",
                     suite="tabletop", processes=[("vla_node", 11)])
    run = runner._Run(None)
    run.video_error = video_error

    def watch(*_):
        before_writing()
        return result, run

    monkeypatch.setattr(runner, "_watch", watch)
    monkeypatch.setattr(ProcessGroup, "start", lambda *_: None)
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return runner.run_demo(parser.parse_args(["--json", str(path), "--no-video"]))


def test_results_that_cannot_be_written_do_not_lose_the_table(no_nodes, monkeypatch, capsys):
    path = no_nodes / "out.json"
    with pytest.raises(SpecpruneError, match=r"out\.json \(Is a directory\)"):
        finish(monkeypatch, path, before_writing=path.mkdir)
    assert "380 of 512" in capsys.readouterr().out


def test_a_broken_video_loses_neither_table_nor_results(no_nodes, monkeypatch, capsys):
    with pytest.raises(SpecpruneError, match="disk full"):
        finish(monkeypatch, no_nodes / "out.json", SpecpruneError("film.mp4: disk full"))
    assert "380 of 512" in capsys.readouterr().out
    assert json.loads((no_nodes / "out.json").read_text())["chunks"] == 1


def test_a_run_that_went_well_is_status_0(no_nodes, monkeypatch):
    assert finish(monkeypatch, no_nodes / "out.json") == 0


def test_an_error_of_the_encoder_is_kept_for_after_the_table():
    class Broken:
        def close(self):
            raise SpecpruneError("film.mp4: disk full")

    run = runner._Run(Path("film.mp4"))
    run._video = Broken()
    run.close()
    assert str(run.video_error) == "film.mp4: disk full"
    assert run.film() == "not written to the end"
