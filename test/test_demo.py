"""specprune demo: what it counts, draws and writes."""
import argparse
import json
import threading
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from specprune_ros import demo
from specprune_ros.demo.report import Progress, progress_text, summary_table
from specprune_ros.demo.results import Tally, as_json, checkpoint_facts
from specprune_ros.errors import CheckpointError, SpecpruneError

cv2 = pytest.importorskip("cv2")

from specprune_ros.demo.video import (  # noqa: E402
    GAP,
    PANEL,
    STRIP,
    Caption,
    VideoFile,
    compose,
)

CAPTION = Caption("pick up the red cube", episode=2, step=17, mode="coarse", kept=128, dense=512,
                  successes=1, episodes=2)


def tally():
    tally = Tally(episodes=3, successes=1)
    for k, milliseconds in enumerate((10.0, 20.0, 30.0, 100.0)):
        tally.add_chunk(milliseconds / 1000.0)
        tally.add_stats([256, 256], [200, 180], [150, 120, 100 + k, 60], mode=k // 3)
    return tally


# --- counts ---------------------------------------------------------------------------------


def test_kept_tokens_are_those_after_the_last_dynamic_stage():
    assert tally().kept == [160, 161, 162, 163]
    assert tally().dense == 512


def test_without_dynamic_stages_the_static_count_stands():
    only_static = Tally()
    only_static.add_stats([256, 256], [200, 180], [], mode=0)
    assert only_static.kept == [380]


def result(**changes):
    facts = {"seconds": 12.345, "checkpoint": "specprune-tiny", "trained": False,
             "pruning": "specprune", "suite": "tabletop",
             "processes": [("vla_node", 11), ("sim_bridge_node", 12)], **changes}
    return as_json(tally(), **facts)


def test_json_holds_the_counts_and_what_they_depend_on():
    written = json.loads(json.dumps(result()))
    assert written["chunks"] == written["queries"] == 4
    assert (written["episodes"], written["successes"]) == (3, 1)
    assert written["latency_ms"] == {"p50": 25.0, "p95": pytest.approx(89.5)}
    assert written["kept_visual_tokens_mean"] == 161.5
    assert written["dense_visual_tokens"] == 512
    assert written["mode_shares"] == {"coarse": 0.75, "fine": 0.25}
    assert written["processes"] == [{"name": "vla_node", "pid": 11},
                                    {"name": "sim_bridge_node", "pid": 12}]
    assert {"seconds", "checkpoint", "pruning", "trained", "versions"} <= set(written)
    assert {"specprune_ros", "python", "numpy"} <= set(written["versions"])


def test_training_state_comes_from_the_checkpoint(tmp_path):
    assert checkpoint_facts(tmp_path) == (tmp_path.name, None)
    (tmp_path / "specprune.json").write_text('{"name": "small", "trained": true}')
    assert checkpoint_facts(tmp_path) == ("small", True)
    (tmp_path / "specprune.json").write_text("{")
    with pytest.raises(CheckpointError, match="specprune.json"):
        checkpoint_facts(tmp_path)


# --- text -----------------------------------------------------------------------------------


def rendered(renderable):
    out = StringIO()
    Console(file=out, width=100).print(renderable)
    return out.getvalue()


def test_table_shows_the_figures_and_says_that_the_weights_are_random():
    text = rendered(summary_table(result(), Path("out.json"), "out/demo.mp4"))
    for shown in ("specprune-tiny (NOT trained)", "25.0 / 89.5 ms", "161.5 of 512", "32%",
                  "coarse 75%, fine 25%", "3, 1 solved", "out/demo.mp4", "out.json",
                  "not trained: its weights are random"):
        assert shown in text
    trained = rendered(summary_table(result(trained=True), None, "none"))
    assert "random" not in trained
    assert "(trained)" in trained


def test_progress_names_time_chunks_episode_mode_tokens_and_successes():
    line = progress_text(3.21, 60.0, tally(), CAPTION)
    assert line == "  3.2/60 s  4 chunks  episode 2 step 17   coarse  128/512 tokens  1/3 solved"
    assert len(line) < 80


def test_without_a_terminal_progress_is_a_line_now_and_then():
    out = StringIO()
    with Progress(Console(file=out, force_terminal=False)) as progress:
        for k in range(100):
            progress.show(f"line {k}")
    assert out.getvalue() == "line 0\n"


# --- video ----------------------------------------------------------------------------------


def pictures(value=120):
    primary = np.full((256, 256, 3), value, np.uint8)
    primary[:, :, 0] = 250  # red
    return primary, np.full((256, 256, 3), 30, np.uint8)


def test_frame_has_both_pictures_over_the_caption_in_bgr():
    frame = compose(*pictures(), CAPTION)
    assert frame.shape == (PANEL + STRIP, 2 * PANEL + GAP, 3)
    assert frame[PANEL // 2, PANEL // 2].tolist() == [120, 120, 250]
    assert frame[PANEL // 2, PANEL + GAP + PANEL // 2].tolist() == [30, 30, 30]
    empty = compose(*pictures(), Caption())
    assert (frame[PANEL:] != empty[PANEL:]).any()
    np.testing.assert_array_equal(frame[:PANEL], empty[:PANEL])


def test_outcome_is_written_only_at_the_end_of_an_episode():
    strips = [compose(*pictures(), Caption("task", outcome=outcome))[PANEL:]
              for outcome in (None, True, False)]
    assert (strips[0] != strips[1]).any()
    assert (strips[1] != strips[2]).any()


def test_any_instruction_can_be_drawn():
    compose(*pictures(), Caption("räum den grünen Würfel weg " * 10))


def frames_of(path):
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = video.read()
        if not ok:
            return frames
        frames.append(frame)


def test_video_file_holds_every_frame_and_lingers_on_the_outcome(tmp_path):
    video = VideoFile(tmp_path / "new" / "film.mp4", 20.0)
    for k in range(10):
        video.add(*pictures(20 * k), CAPTION)
    video.end_episode(Caption("task", outcome=True))
    video.close()
    frames = frames_of(tmp_path / "new" / "film.mp4")
    assert len(frames) == video.written == 10 + 16
    assert video.dropped == 0
    assert frames[0].shape == (PANEL + STRIP, 2 * PANEL + GAP, 3)
    assert abs(float(frames[0][100, 100, 0]) - 0.0) < 20.0
    assert abs(float(frames[9][100, 100, 0]) - 180.0) < 20.0


def test_frames_are_dropped_rather_than_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("specprune_ros.demo.video.QUEUE_FRAMES", 4)
    gate = threading.Event()
    real = compose
    monkeypatch.setattr("specprune_ros.demo.video.compose",
                        lambda *item: gate.wait(60) and real(*item))
    video = VideoFile(tmp_path / "film.mp4", 20.0)
    for _ in range(50):
        video.add(*pictures(), CAPTION)
    assert video.dropped >= 45
    gate.set()
    video.close()
    assert video.written + video.dropped == 50
    assert len(frames_of(tmp_path / "film.mp4")) == video.written


def test_a_frame_that_cannot_be_written_is_an_error_at_the_end(tmp_path):
    video = VideoFile(tmp_path / "film.mp4", 20.0)
    video.add(np.zeros((0, 0, 3), np.uint8), pictures()[1], CAPTION)
    with pytest.raises(SpecpruneError, match="film.mp4"):
        video.close()


def test_a_path_that_takes_no_video_is_named(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(SpecpruneError, match="folder.mp4"):
        VideoFile(tmp_path / "folder.mp4", 20.0)


# --- options --------------------------------------------------------------------------------


def parse(*words):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(words)


def test_options():
    plain = parse()
    assert (plain.seconds, plain.view, plain.json) == (60.0, False, None)
    assert plain.video == Path("out/demo.mp4")
    assert not hasattr(plain, "seed")  # the parameter file's
    given = parse("--seconds", "5", "--view", "--no-video", "--seed", "3",
                  "--ros-args", "-p", "pacing:=realtime")
    assert (given.seconds, given.view, given.video, given.seed) == (5.0, True, None, 3)
    assert given.ros_args == ["-p", "pacing:=realtime"]


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--seconds", "nan"], ["--seconds", "inf"],
                                   ["--headless", "--view"]])
def test_options_that_make_no_sense_are_refused(words):
    with pytest.raises(SystemExit):
        parse(*words)


def test_seconds_that_are_no_number_are_refused_in_plain_words(capsys):
    with pytest.raises(SystemExit):
        parse("--seconds", "abc")
    assert "expected a number of seconds > 0, not 'abc'" in capsys.readouterr().err
