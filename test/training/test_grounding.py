"""The loss on attention: what it measures, and that training lowers it."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from specprune_ros.training.dropping import kept_patches, named_patches
from specprune_ros.training.grounding import ENOUGH, grounding_loss, visual_attention
from specprune_ros.training.train import TrainConfig, Trainer
from specprune_ros.vla.openvla_oft.config import PATCH
from specprune_ros.vla.openvla_oft.tiny import Size

SMALL = Size(hidden=32, mlp=64, layers=4, heads=2, vit_width=16, vit_depth=2, vit_heads=2)
GRID = 8


def _trainer(demos, out, **settings):
    config = TrainConfig(
        data=(str(demos),), name="trial", image_size=112, batch=8, size=SMALL, vision_share=0.0,
        **settings,
    )
    return Trainer(config, out)


@pytest.fixture(scope="module")
def trainer(demos, tmp_path_factory):
    return _trainer(demos, tmp_path_factory.mktemp("train"), samples=32, grounding=0.5)


@pytest.fixture
def batch(trainer):
    return trainer.batches.make(np.arange(6))


def test_what_rows_see_is_what_the_layer_attends_to(trainer, batch):
    """Against the weights that transformers' own eager attention gives."""
    model = trainer.network.model
    layer = model.decoder.layers[1]
    hidden = torch.randn(2, 150, 32, generator=torch.Generator().manual_seed(0))
    tables = model.decoder.rope_tables(150, hidden)
    config = layer.self_attn.config
    before, config._attn_implementation = config._attn_implementation, "eager"
    with torch.no_grad():
        _, weights = layer.self_attn(
            layer.input_layernorm(hidden), position_embeddings=tables, attention_mask=None
        )
        groups = (slice(-20, -10), slice(-10, None))
        seen = visual_attention(layer, hidden, tables, groups, 128)
    config._attn_implementation = before
    for rows, attention in zip(groups, seen):
        torch.testing.assert_close(attention, weights[:, :, rows, 1:129].mean((1, 2)))


def test_loss_is_the_shortfall_of_each_visible_thing():
    cameras = torch.eye(2, dtype=torch.bool).repeat_interleave(4, 1)[None]
    named = torch.zeros(1, 2, 2, 8, dtype=torch.bool)
    named[0, 0, 0, 1] = named[0, 0, 1, 2] = named[0, 1, 0, 4] = True  # destination not in camera 1
    attention = torch.tensor([[0.02, 0.01, 0.05, 0.02, 0.3, 0.1, 0.1, 0.1]])
    expected = (math.log(ENOUGH / 0.1) + 0 + 0) / 3
    assert float(grounding_loss(attention, cameras, named)) == pytest.approx(expected, rel=1e-5)
    assert float(grounding_loss(attention, cameras, torch.zeros_like(named))) == 0


def test_named_patches_hold_target_and_destination(trainer, batch):
    for kept in (None, kept_patches(batch, GRID, 60)):
        cameras, named = named_patches(batch, GRID, kept)
        index = torch.arange(128).expand(6, -1) if kept is None else kept
        assert (cameras == (index[:, None] // GRID**2 == torch.arange(2)[None, :, None])).all()
        assert not (named & ~cameras[:, :, None]).any()
        for row, camera in np.ndindex(6, 2):
            for which, entity in enumerate((batch.target[row], batch.destination[row])):
                x, y = batch.pixels[row, camera, entity].tolist()
                if not (0 <= x < PATCH * GRID and 0 <= y < PATCH * GRID):
                    continue
                patch = camera * GRID**2 + int(y // PATCH) * GRID + int(x // PATCH)
                assert patch in index[row][named[row, camera, which]].tolist()


def test_training_lowers_it(demos, tmp_path):
    trainer = _trainer(
        demos, tmp_path, samples=480, grounding=1.0, drop_share=0.5, optimiser="muon",
        learning_rate=3e-3,
    )
    before = trainer.validate()["grounding"]
    trainer.run()
    assert trainer.validate()["grounding"] < 0.8 * before


def test_without_a_weight_it_is_not_computed(demos, tmp_path):
    trainer = _trainer(demos, tmp_path, samples=8)
    assert "grounding" not in trainer.validate()
