"""Collecting and training: what is written can be loaded, resumed, and is what was trained."""
from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Observation, load_policy
from specprune_ros.training.collect import TRAINING_SEEDS, CollectConfig, collect
from specprune_ros.training.data import Demonstrations
from specprune_ros.training.train import TrainConfig, Trainer
from specprune_ros.vla.openvla_oft.tiny import Size

COLLECT = CollectConfig(episodes=4, every=12, shard_episodes=1)  # as in conftest.py
SMALL = Size(hidden=32, mlp=64, layers=4, heads=2, vit_width=16, vit_depth=2, vit_heads=2)


@pytest.fixture(scope="module")
def config(demos):
    return TrainConfig(
        data=(str(demos),), name="trial", image_size=112, samples=48, batch=8, size=SMALL
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("train")
    trainer = Trainer(config, out)
    losses = []
    trainer.run(lambda progress: losses.append(dict(progress.losses)))
    state = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    return trainer, out, losses, state


def test_collecting_continues_where_it_stopped(demos):
    before = {f: f.stat().st_mtime_ns for f in demos.glob("shard-*.npz")}
    assert list(collect(COLLECT, demos)) == [(4, 4)]
    assert {f: f.stat().st_mtime_ns for f in demos.glob("shard-*.npz")} == before


def test_other_settings_need_another_directory(demos):
    with pytest.raises(ConfigurationError, match="other settings"):
        list(collect(replace(COLLECT, every=5), demos))


def test_evaluation_seeds_are_refused():
    with pytest.raises(ConfigurationError, match="training seeds"):
        CollectConfig(first_seed=0, episodes=3)


def test_demonstrations_that_are_all_held_out_are_refused(demos):
    data = Demonstrations([demos], 112)
    assert len(data.split()[0]) > 0
    with pytest.raises(ConfigurationError, match="held out for validation: collect more"):
        data.split(every=1)


def test_labels_name_several_tasks_of_one_picture(demos):
    data = Demonstrations([demos], 112)
    assert set(data.seed) <= set(range(TRAINING_SEEDS.start, TRAINING_SEEDS.start + 4))
    assert data.episodes == len(set(data.seed)) >= 2
    labels_per_sample = np.bincount(data.label_sample)
    assert labels_per_sample.min() >= 1 and labels_per_sample.max() >= 3
    first = data.label_sample == 0
    assert len(set(data.label_task[first])) == first.sum()
    actions = data.label_actions[first]
    # The first motion of the episode goes to different cubes for different tasks.
    assert np.abs(actions[0, :, :3] - actions[1:, :, :3]).max() > 0.05
    assert set(np.unique(data.label_actions[..., 6])) <= {0.0, 1.0}


def test_entities_lie_where_the_pictures_show_them(demos):
    """The red cube's projected centre is red in the policy's view of the scene camera."""
    data = Demonstrations([demos], 224)
    red = data.entities.index("red")
    seen = 0
    images = data.pictures.gather(np.arange(len(data.seed)))[:, 0]
    for image, pixel in zip(images, data.pixels[:, 0, red]):
        if np.isfinite(pixel).all() and (pixel > 4).all() and (pixel < 220).all():
            column, row = np.rint(pixel).astype(int)
            patch = image[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3).mean(0)
            seen += patch[0] > 1.5 * max(patch[1], patch[2])
    assert seen >= 1


def test_checkpoint_gives_what_was_trained(trained, demos):
    """The loaded policy computes what the training network computed, picture by picture."""
    trainer, out, _, _ = trained
    policy = load_policy(
        out / "checkpoint", pruning="off", center_crop=False, jpeg_roundtrip=False
    )
    assert policy.trained and policy.card["samples"] == 48
    data = Demonstrations([demos], 112)
    labels = np.arange(4)
    trainer.network.eval()
    # The checkpoint is stored in bfloat16.
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
        _, expected = trainer.network(trainer.batches.make(labels), augment=False)
    for label, wanted in zip(labels, expected.numpy()):
        sample = data.label_sample[label]
        images = dict(zip(("primary", "wrist"), data.pictures.gather([sample])[0]))
        text = data.instructions[data.label_task[label]]
        policy.new_episode()
        chunk = policy.predict(Observation(images, text, data.proprio[sample]))
        np.testing.assert_allclose(chunk.normalized_actions, wanted, atol=2e-4)


def test_training_lowers_the_loss(trained):
    _, out, losses, _ = trained
    full = [entry["action"] for entry in losses if "action" in entry]
    assert full[-1] < full[0]
    log = json.loads((out / "log.json").read_text())
    assert log["log"][-1]["samples"] == 48
    assert all(seed in TRAINING_SEEDS for seed in log["data_seeds"])


def test_resumed_run_ends_where_an_unbroken_one_does(config, trained, tmp_path):
    unbroken = trained[3]
    first = Trainer(config, tmp_path)

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.done >= 24:
            first.save({})
            raise Stop

    with pytest.raises(Stop):
        first.run(stop)
    second = Trainer(config, tmp_path)
    second.run()
    for name, value in second.network.state_dict().items():
        assert torch.equal(value, unbroken[name]), name


def test_state_of_other_settings_is_refused(config, trained):
    _, out, _, _ = trained
    with pytest.raises(ConfigurationError, match="learning_rate"):
        Trainer(replace(config, learning_rate=0.5), out).resume()
