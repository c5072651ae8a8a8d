"""Batches that lose patches: what stays, and that what stays is computed as before."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from specprune_ros.training.dropping import attended_patches, kept_patches
from specprune_ros.training.train import TrainConfig, Trainer
from specprune_ros.vla.openvla_oft.config import PATCH
from specprune_ros.vla.openvla_oft.tiny import Size

SMALL = Size(hidden=32, mlp=64, layers=4, heads=2, vit_width=16, vit_depth=2, vit_heads=2)
GRID = 8


@pytest.fixture(scope="module")
def trainer(demos, tmp_path_factory):
    config = TrainConfig(
        data=(str(demos),), name="trial", image_size=112, samples=32, batch=8, size=SMALL,
        drop_share=1.0, vision_share=0.0,
    )
    return Trainer(config, tmp_path_factory.mktemp("train"))


@pytest.fixture
def batch(trainer):
    return trainer.batches.make(np.arange(6))


def test_keeping_every_patch_changes_nothing(trainer, batch):
    trainer.network.eval()
    with torch.no_grad():
        losses, whole = trainer.network(batch, augment=False)
        same, kept = trainer.network(batch, augment=False, kept=2 * GRID**2)
    torch.testing.assert_close(kept, whole, atol=1e-6, rtol=0)
    assert same.total == pytest.approx(float(losses.total), abs=1e-5)


def test_only_what_stays_enters_the_layers_further_down(trainer, batch):
    network, rows = trainer.network.eval(), []
    layers = network.model.decoder.layers
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[1]))
        for layer in layers
    ]
    with torch.no_grad():
        network(batch, augment=False, kept=96)
    for hook in hooks:
        hook.remove()
    others = batch.ids.shape[1] + 1 + 56 + 1  # prompt with BOS, proprio, actions, stop
    assert rows == [128 + others] * 2 + [96 + others] * 2


def test_kept_patches_ascend_and_hold_what_the_instruction_names(trainer, batch):
    for count in (40, 96, 120):
        patches = kept_patches(batch, GRID, count)
        assert (patches.diff(dim=1) > 0).all()
        assert 0 <= patches.min() and patches.max() < 2 * GRID**2
        for row in range(len(batch.ids)):
            kept = set(patches[row].tolist())
            for entity in (batch.target[row], batch.destination[row]):
                for camera in range(2):
                    x, y = (batch.pixels[row, camera, entity] / PATCH).tolist()
                    inside = math.isfinite(x) and 0 <= x < GRID and 0 <= y < GRID
                    if inside:
                        assert camera * GRID**2 + int(y) * GRID + int(x) in kept


def test_other_things_stay_half_of_the_time(trainer, batch):
    """The kept set must not tell which of the things is meant."""
    shown = 0
    for row in range(len(batch.ids)):
        many = {
            name: getattr(batch, name)[row : row + 1].expand(
                300, *[-1] * (getattr(batch, name).dim() - 1)
            )
            for name in ("pixels", "target", "destination")
        }
        patches = kept_patches(replace(batch, **many), GRID, 48)
        cells = (batch.pixels[row, 0] / PATCH).tolist()
        named = [int(batch.target[row]), int(batch.destination[row])]
        for entity, (x, y) in enumerate(cells):
            visible = math.isfinite(x) and 0 <= x < GRID and 0 <= y < GRID
            apart = all(max(abs(x - cells[e][0]), abs(y - cells[e][1])) > 2 for e in named)
            if entity not in named and visible and apart:
                shown += 1
                share = (patches == int(y) * GRID + int(x)).any(1).float().mean()
                # Half by themselves; of the rest, some as background.
                assert 0.4 < share < 0.95
    assert shown


def test_a_run_with_dropped_patches_resumes_bit_by_bit(trainer, tmp_path):
    whole = Trainer(trainer.config, tmp_path / "whole")
    whole.run()

    class Stop(Exception):
        pass

    first = Trainer(trainer.config, tmp_path / "parts")

    def stop(progress):
        if progress.done >= 16:
            first.save({})
            raise Stop

    with pytest.raises(Stop):
        first.run(stop)
    second = Trainer(trainer.config, tmp_path / "parts")
    second.run()
    for name, value in second.network.state_dict().items():
        assert torch.equal(value, whole.network.state_dict()[name]), name


def test_attended_patches_are_those_with_the_most_attention_of_each_camera(monkeypatch):
    monkeypatch.setattr("specprune_ros.training.dropping._NOISE", 0.0)
    cameras = torch.eye(2, dtype=torch.bool).repeat_interleave(5, 1)[None].expand(2, -1, -1)
    attention = torch.rand(2, 10, generator=torch.Generator().manual_seed(1))
    chosen = attended_patches(attention, cameras, 5)
    for row, kept in zip(attention, chosen.tolist()):
        expected = [*row[:5].topk(3).indices.tolist(), *(row[5:].topk(2).indices + 5).tolist()]
        assert kept == sorted(expected)


def test_batches_by_attention_lose_more_further_down(trainer, batch):
    network, rows = trainer.network.eval(), []
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[1]))
        for layer in network.model.decoder.layers
    ]
    with torch.no_grad():
        losses, _ = network(batch, augment=False, kept=80, by_attention=True)
    for hook in hooks:
        hook.remove()
    others = batch.ids.shape[1] + 1 + 56 + 1
    assert [count - others for count in rows] == [128, 128, 68, 57]
    assert math.isfinite(losses.total)
