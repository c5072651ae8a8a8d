"""The episode log: what is written is there again, and nothing else is taken for it."""
from __future__ import annotations

from dataclasses import replace

import pytest
from harness import record, short_settings

from specprune_ros.errors import CheckpointError, ConfigurationError
from specprune_ros.eval.episode import Arm, Job
from specprune_ros.eval.log import EpisodeLog
from specprune_ros.eval.settings import (
    TUNING_SEEDS,
    EvalSettings,
    check_seeds,
    checkpoint_hash,
    in_tuning_range,
)
from specprune_ros.eval.worlds import Perturbation
from specprune_ros.training.collect import TRAINING_SEEDS

JOBS = [Job(Arm("off"), task, 40 + task) for task in range(3)]


@pytest.fixture
def settings(tiny_dir):
    return short_settings(tiny_dir)


def write(path, settings, jobs=JOBS, resume=False):
    with EpisodeLog(path, settings, resume) as log:
        for job in jobs:
            log.add(record(job))
        return dict(log.records)


def read(path, settings):
    with EpisodeLog(path, settings, resume=True) as log:
        return dict(log.records)


def test_episodes_are_there_again(tmp_path, settings):
    path = tmp_path / "new" / "log.jsonl"
    assert read(path, settings) == {}  # --resume of nothing starts
    written = write(path, settings, JOBS[:2], resume=True)
    assert read(path, settings).keys() == written.keys() == {j.key for j in JOBS[:2]}
    write(path, settings, JOBS[2:], resume=True)
    assert len(read(path, settings)) == 3
    assert len(path.read_text().splitlines()) == 4


def test_an_earlier_run_is_not_overwritten(tmp_path, settings):
    path = tmp_path / "log.jsonl"
    write(path, settings)
    with pytest.raises(ConfigurationError, match="--resume"):
        write(path, settings)
    assert len(read(path, settings)) == 3


def test_a_line_that_was_cut_off_is_played_again(tmp_path, settings):
    path = tmp_path / "log.jsonl"
    write(path, settings)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(read(path, settings)) == 2
    write(path, settings, JOBS[2:], resume=True)
    assert path.read_bytes() == whole


def test_a_broken_line_is_named(tmp_path, settings):
    path = tmp_path / "log.jsonl"
    write(path, settings)
    lines = path.read_text().splitlines()
    for wrong in ("{", "[]", '{"key": "x"}'):
        path.write_text("\n".join([lines[0], lines[1], wrong, lines[3], ""]))
        with pytest.raises(ConfigurationError, match="line 3 is no line"):
            read(path, settings)


@pytest.mark.parametrize("changes, named", [
    ({"max_steps": 33}, "max_steps 17 .now 33"), ({"seed": 41}, "seed 40 .now 41"),
    ({"checkpoint_hash": "other"}, "checkpoint_hash"), ({"code_hash": "other"}, "code_hash"),
])
def test_other_settings_are_refused_by_name(tmp_path, settings, changes, named):
    path = tmp_path / "log.jsonl"
    write(path, settings)
    with pytest.raises(ConfigurationError, match=f"other settings: {named}"):
        read(path, replace(settings, **changes))


def test_the_place_of_a_checkpoint_is_no_setting(tmp_path, settings):
    path = tmp_path / "log.jsonl"
    write(path, settings)
    assert len(read(path, replace(settings, checkpoint="/elsewhere"))) == 3


def test_keys_tell_episodes_apart():
    jobs = [
        Job(Arm(*arm), task, seed)
        for arm in (("off",), ("fastv",), ("fastv", 0.5), ("fastv", 0.25),
                    ("fastv", None, Perturbation(image_noise=3)))
        for task, seed in ((0, 1), (1, 1), (1, 2))
    ]
    assert len({job.key for job in jobs}) == len(jobs)


def test_a_worker_with_another_checkpoint_or_code_refuses(settings):
    settings.verify()
    with pytest.raises(ConfigurationError, match="another checkpoint"):
        replace(settings, checkpoint_hash="other").verify()
    with pytest.raises(ConfigurationError, match="another code"):
        replace(settings, code_hash="other").verify()


def test_checkpoint_hash_is_not_that_of_the_model_card(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    bare = checkpoint_hash(tmp_path)
    (tmp_path / "README.md").write_text("A policy.")
    assert checkpoint_hash(tmp_path) == bare
    (tmp_path / "notes.md").write_text("A policy.")
    assert checkpoint_hash(tmp_path) != bare


def test_checkpoint_hash_sees_contents(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    one = checkpoint_hash(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    two = checkpoint_hash(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({one, two, checkpoint_hash(tmp_path)}) == 3
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        checkpoint_hash(tmp_path / "none")


def test_training_seeds_are_refused():
    first, stop = TRAINING_SEEDS.start, TRAINING_SEEDS.stop
    check_seeds(first - 10, 10)
    check_seeds(stop, 10)
    for seed, count in ((first - 10, 11), (first, 1), (stop - 1, 1), (0, first + 1), (-1, 1),
                        (0, 0)):
        with pytest.raises(ConfigurationError, match="seed|episodes"):
            check_seeds(seed, count)


def test_ranges_of_seeds_are_apart():
    assert not set(TRAINING_SEEDS) & {TUNING_SEEDS.start, TUNING_SEEDS.stop - 1}
    assert TUNING_SEEDS.start >= TRAINING_SEEDS.stop
    assert in_tuning_range(TUNING_SEEDS.start - 1, 2)
    assert not in_tuning_range(TUNING_SEEDS.start - 1, 1)


def test_settings_are_checked(tiny_dir):
    with pytest.raises(ConfigurationError, match="max_steps is 0"):
        EvalSettings.of("tabletop", 0, tiny_dir, max_steps=0)
