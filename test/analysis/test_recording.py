"""The file of an episode: round trip, validation, and the streams that are made up."""
from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pytest
from streams import assert_same, run, tiny_stream

from specprune_ros import cli
from specprune_ros.analysis import record_sim
from specprune_ros.analysis.recording import Recording, load_pooled, load_recordings
from specprune_ros.analysis.synthetic import KINDS, TOP_SPEED, synthetic_recording
from specprune_ros.errors import ConfigurationError, RecordingError


def full_recording() -> Recording:
    steps, rng = 3, np.random.default_rng(0)
    return Recording(
        cameras=("primary", "wrist"),
        frames=rng.integers(0, 256, (steps, 2, 8, 10, 3), dtype=np.uint8),
        stamps=np.array([0.0, 0.05, 0.1]),
        instruction="push the blue cube",
        control_period=0.05,
        proprio=rng.normal(size=(steps, 8)),
        ee_twists=rng.normal(size=(steps, 6)),
        joint_names=("a", "b"),
        joint_positions=rng.normal(size=(steps, 2)),
        joint_velocities=rng.normal(size=(steps, 2)),
        actions=rng.normal(size=(steps, 7)),
        success=True,
        suite="tabletop",
        seed=7,
        source="test",
    )


def bare_recording() -> Recording:
    recording = full_recording()
    return Recording(recording.cameras, recording.frames, recording.stamps, "lift", 0.05)


@pytest.mark.parametrize("make", [full_recording, bare_recording])
def test_round_trip(make, tmp_path):
    path = make().save(tmp_path / "new" / "episode.npz")
    assert_same(make(), Recording.load(path))


def test_a_step_is_an_observation(dense):
    recording = full_recording()
    observation = recording.observation(1)
    assert list(observation.images) == ["primary", "wrist"]
    np.testing.assert_array_equal(observation.images["wrist"], recording.frames[1, 1])
    assert observation.stamp == 0.05 and observation.instruction == recording.instruction
    np.testing.assert_array_equal(observation.ee_twist, recording.ee_twists[1])
    assert recording.observation(1, with_proprio=False).proprio is None


def _nan(values):
    values = values.copy()
    values[1, 0] = np.nan
    return values


@pytest.mark.parametrize("change, message", [
    (lambda r: {"frames": r.frames.astype(np.float32)}, "expected uint8"),
    (lambda r: {"frames": r.frames[0]}, "expected uint8"),
    (lambda r: {"cameras": ("primary",)}, "1 camera names"),
    (lambda r: {"cameras": ("primary", "primary")}, "not unique"),
    (lambda r: {"stamps": r.stamps[:2]}, r"stamps has shape \[2\], expected \[3\]"),
    (lambda r: {"stamps": np.array([0.0, 0.1, 0.1])}, "stamps must ascend"),
    (lambda r: {"instruction": " "}, "instruction is empty"),
    (lambda r: {"control_period": 0.0}, "control_period is 0.0"),
    (lambda r: {"control_period": 50.0}, "stamps are 0.05 s apart .median., .* of 50 s"),
    (lambda r: {"control_period": 0.02}, "not the control_period of 0.02 s"),
    (lambda r: {"stamps": r.stamps * 1.6}, "stamps are 0.08 s apart"),
    (lambda r: {"ee_twists": r.ee_twists[:, :3]}, r"ee_twists has shape \[3, 3\]"),
    (lambda r: {"joint_positions": r.joint_positions[:, :1]}, "joint_positions has shape"),
    (lambda r: {"proprio": r.proprio[:2]}, "proprio has shape"),
    (lambda r: {"actions": _nan(r.actions)}, "actions is not finite at step 1"),
])
def test_wrong_content_is_named(change, message):
    recording = full_recording()
    with pytest.raises(RecordingError, match=message):
        replace(recording, **change(recording))


def test_wrong_files_are_named(tmp_path):
    missing = tmp_path / "none.npz"
    with pytest.raises(RecordingError, match="does not exist"):
        Recording.load(missing)
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    with pytest.raises(RecordingError, match="is no recording"):
        Recording.load(text)
    lacking = tmp_path / "lacking.npz"
    np.savez(lacking, format=1, cameras=["primary"])
    with pytest.raises(RecordingError, match="lacks frames, stamps, instruction"):
        Recording.load(lacking)
    with pytest.raises(RecordingError, match="holds no .npz recording"):
        load_recordings(tmp_path / "..")
    path = full_recording().save(tmp_path / "cut.npz")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(RecordingError, match="is no recording"):
        Recording.load(path)


def test_a_later_format_is_refused(tmp_path):
    path = full_recording().save(tmp_path / "episode.npz")
    content = dict(np.load(path))
    np.savez(path, **{**content, "format": 99})
    with pytest.raises(RecordingError, match="has format 99"):
        Recording.load(path)


@pytest.mark.parametrize("value", ["one", "1", [1], [1, 1], [[1, 2]], 1.5, []])
def test_a_format_that_is_no_number_is_refused(value, tmp_path):
    path = full_recording().save(tmp_path / "episode.npz")
    content = dict(np.load(path))
    np.savez(path, **{**content, "format": value})
    with pytest.raises(RecordingError, match="episode.npz': format is .* expected the whole num"):
        Recording.load(path)


def test_jitter_and_pauses_are_no_other_control_period():
    stream = tiny_stream(9)
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, 9)
    replace(stream, stamps=stream.stamps + jitter)
    replace(stream, stamps=stream.stamps + np.where(np.arange(9) < 4, 0.0, 3.0))
    replace(tiny_stream(1), control_period=2.0)  # one stamp has no spacing


def test_folder_is_read_in_the_order_of_names(tmp_path):
    for number in (2, 0, 1):
        replace(full_recording(), seed=number).save(tmp_path / f"e{number}.npz")
    assert [recording.seed for recording in load_recordings(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("cameras", [("primary",), ("primary", "left"), ("wrist", "primary")])
@pytest.mark.parametrize("command", [
    ["compare", "--json", "x.json"],
    *[["analyze", name] for name in ("thresholds", "hitrate", "overhead", "sensitivity",
                                     "ablation")],
    ["analyze", "roofline", "--model", "checkpoint"],
])
def test_different_cameras_are_not_pooled(command, cameras, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    both = tiny_stream(2)
    both.save(tmp_path / "rec" / "a.npz")
    both.save(tmp_path / "rec" / "b.npz")
    assert len(load_pooled(tmp_path / "rec")) == 2
    replace(both, cameras=cameras, frames=both.frames[:, :len(cameras)]).save(
        tmp_path / "rec" / "c.npz")
    assert cli.main([*command, "--recording", "rec"]) == 1
    said = capsys.readouterr().err
    assert "'rec/a.npz' has the cameras primary, wrist" in said
    assert f"'rec/c.npz' has {', '.join(cameras)}: put recordings of the same cameras" in said
    assert [path.name for path in tmp_path.iterdir()] == ["rec"]


# Made-up streams ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_stream(kind):
    assert_same(tiny_stream(5, kind), tiny_stream(5, kind))
    other = synthetic_recording(kind, steps=5, seed=4, size=224)
    assert (other.frames != tiny_stream(5, kind).frames).any()


def test_static_stream_does_not_change():
    stream = tiny_stream(5, "static")
    assert (stream.frames == stream.frames[0]).all()
    assert not stream.ee_twists.any() and (stream.proprio == stream.proprio[0]).all()


def test_square_moves_over_a_still_background_as_fast_as_the_twist_says():
    stream = tiny_stream(21, "square")
    speed = np.linalg.norm(stream.ee_twists[:, :3], axis=1)
    assert speed[0] == speed[-1] == 0 and speed.max() == pytest.approx(TOP_SPEED)
    travelled = np.diff(stream.proprio[:, 1])
    np.testing.assert_allclose(travelled, speed[:-1] * stream.control_period)
    red = (stream.frames[:, 0] == (205, 60, 45)).all(-1)  # [T, H, W]
    left = red.any(1).argmax(1)  # first column of the square
    assert red[0].sum() == (224 // 5) ** 2
    pixels = np.diff(left) / (2.0 * 224)  # two widths of the picture per metre
    np.testing.assert_allclose(pixels, travelled, atol=1 / 224)
    outside = ~(red.any(0))
    assert (stream.frames[:, 0][:, outside] == stream.frames[0, 0][outside]).all()


def test_brightness_stream_only_gets_brighter():
    stream = tiny_stream(5, "brightness")
    means = stream.frames.mean((1, 2, 3, 4))
    assert (np.diff(means) > 0).all()
    assert not stream.ee_twists.any()


def test_unknown_stream_is_refused():
    with pytest.raises(ConfigurationError, match="known: square, brightness, static"):
        synthetic_recording("spiral")


def test_record_sim_writes_streams_without_a_simulator(tmp_path):
    run("record-sim", "--synthetic", "static", "square", "--episodes", 2, "--seed", 5,
        "--max-steps", 3, "--size", 64, "--out", tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"synthetic_{kind}_0000{seed}.npz" for kind in ("square", "static")
                     for seed in (5, 6)]
    first = Recording.load(tmp_path / names[0])
    assert first.frames.shape == (3, 2, 64, 64, 3) and first.seed == 5


@pytest.mark.parametrize("arguments, message", [
    (["--synthetic", "--actor", "policy", "--pruning", "release"],
     "--actor, --pruning would have no effect, as --synthetic needs no actor"),
    (["--synthetic", "square", "--task", "0"], "--task would have no effect"),
    (["--synthetic", "--checkpoint", "x"], "--checkpoint would have no effect"),
    (["--pruning", "release"], "--pruning would have no effect, as the expert acts"),
    (["--checkpoint", "x", "--device", "cuda", "--dtype", "bfloat16", "--unnorm-key", "k",
      "--chunk-length", "4"],
     "--checkpoint, --device, --dtype, --unnorm-key, --chunk-length would have no effect"),
])
def test_record_sim_refuses_options_without_effect(arguments, message, tmp_path, capsys):
    assert cli.main(["record-sim", "--out", str(tmp_path), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_record_sim_knows_the_defaults_of_its_options():
    parser = argparse.ArgumentParser()
    record_sim.add_arguments(parser)
    for arguments in ([], ["--synthetic"], ["--actor", "policy", "--pruning", "release"]):
        record_sim.refuse_without_effect(parser.parse_args(["--out", "x", *arguments]))
