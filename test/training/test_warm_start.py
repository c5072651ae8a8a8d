"""Starting from a trained checkpoint, training in several processes, and the optimisers."""
from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.training import data as training_data
from specprune_ros.training.data import Demonstrations
from specprune_ros.training.train import TrainConfig, Trainer, train
from specprune_ros.training.warm_start import HEADS_FILE, _resampled, layer_places
from specprune_ros.vla.openvla_oft.tiny import Size

SMALL = Size(hidden=32, mlp=64, layers=4, heads=2, vit_width=16, vit_depth=2, vit_heads=2)


@pytest.fixture(scope="module")
def config(demos):
    return TrainConfig(
        data=(str(demos),), name="trial", image_size=112, samples=16, batch=8, size=SMALL
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("train")
    trainer = Trainer(config, out)
    trainer.run()
    return trainer, out


def outputs(trainer):
    trainer.network.eval()
    with torch.no_grad():
        return trainer.network(trainer.batches.make(np.arange(4)), augment=False)


def test_a_deeper_network_begins_as_the_one_it_grew_from(config, trained, tmp_path):
    source, out = trained
    deeper = replace(config, init=str(out / "checkpoint"), size=replace(SMALL, layers=7))
    grown = Trainer(deeper, tmp_path)
    assert len(grown.network.model.decoder.layers) == 7
    with torch.no_grad():  # the checkpoint is stored in bfloat16
        for parameter in source.network.model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
    (old_losses, old), (new_losses, new) = outputs(source), outputs(grown)
    torch.testing.assert_close(new, old, atol=1e-5, rtol=0)
    # The heads of the auxiliary losses came along.
    torch.testing.assert_close(new_losses.total, old_losses.total, atol=1e-4, rtol=1e-4)
    assert grown.tokenizer_json == source.tokenizer_json
    assert grown.statistics == source.statistics
    grown.run()  # and it can be trained


def test_new_layers_learn(config, trained, tmp_path):
    deeper = replace(
        config, init=str(trained[1] / "checkpoint"), size=replace(SMALL, layers=5),
        vision_share=0.0,
    )
    grown = Trainer(deeper, tmp_path)
    added = next(i for i, (_, extra) in enumerate(layer_places(4, 5)) if extra)
    matrix = grown.network.model.decoder.layers[added].mlp.down_proj.weight
    assert not matrix.any()
    grown.run()
    assert matrix.any()


def test_positions_are_resampled_for_a_larger_picture(config, trained, tmp_path):
    larger = Trainer(
        replace(config, init=str(trained[1] / "checkpoint"), image_size=224), tmp_path
    )
    new = larger.network.model.dino.pos_embed
    assert new.shape[1] == 256 and torch.isfinite(new).all()


def test_a_resampled_table_keeps_its_slopes():
    """A plane over an 8 x 8 grid is the same plane over 16 x 16."""
    centres = (torch.arange(8.0) + 0.5) / 8
    plane = torch.stack(torch.meshgrid(centres, 2 * centres, indexing="ij"), -1).view(1, 64, 2)
    fine = (torch.arange(16.0) + 0.5) / 16
    wanted = torch.stack(torch.meshgrid(fine, 2 * fine, indexing="ij"), -1)
    got = _resampled(plane, 256).view(16, 16, 2)
    torch.testing.assert_close(got[1:-1, 1:-1], wanted[1:-1, 1:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (3, 8), (4, 4), (2, 6), (5, 6), (1, 3)])
def test_every_old_layer_stands_once_and_in_order(old, new):
    places = layer_places(old, new)
    assert len(places) == new
    assert [source for source, extra in places if not extra] == list(range(old))
    assert all(a <= b for (a, _), (b, _) in zip(places, places[1:]))
    if old >= 2:
        assert places[:2] == [(0, False), (1, False)]


def test_other_sizes_are_refused_by_name(config, trained, tmp_path):
    start = str(trained[1] / "checkpoint")
    with pytest.raises(ConfigurationError, match="pos_embed|embed_tokens|patch_embed"):
        Trainer(replace(config, init=start, size=replace(SMALL, vit_width=32)), tmp_path / "a")
    with pytest.raises(ConfigurationError, match="3 decoder layers"):
        Trainer(replace(config, init=start, size=replace(SMALL, layers=3)), tmp_path / "b")


def test_the_card_tells_every_stage_and_no_paths(config, trained, tmp_path):
    deeper = replace(
        config, init=str(trained[1] / "checkpoint"), size=replace(SMALL, layers=5), samples=8
    )
    Trainer(deeper, tmp_path / "more").run()
    text = (tmp_path / "more" / "checkpoint" / "specprune.json").read_text()
    card = json.loads(text)
    assert [entry["samples"] for entry in card["stages"]] == [16, 8]
    assert [entry["size"]["layers"] for entry in card["stages"]] == [4, 5]
    assert card["cameras"] == ["primary", "wrist"] and card["trained"] is True
    assert str(tmp_path) not in text and str(trained[1]) not in text and config.data[0] not in text


def test_heads_of_the_auxiliary_losses_lie_beside_the_published_files(trained):
    heads = torch.load(trained[1] / "checkpoint" / HEADS_FILE, weights_only=True)
    assert {name.split(".")[0] for name in heads} == {"patch_head", "pointing_head", "offset_head"}


def test_two_processes_train_one_network(config, tmp_path):
    shared = replace(config, processes=2, samples=24)
    seen = []
    train(shared, tmp_path, seen.append)
    assert [progress.done for progress in seen] == [8, 16, 24]
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["log"][-1]["samples"] == 24
    again = Trainer(shared, tmp_path)
    again.resume()
    assert again.done == 24


def test_averaged_gradients_are_those_of_the_whole_batch(config, demos, tmp_path):
    """A step of two processes is the mean of what each would do alone."""
    shared = replace(config, processes=2, samples=8, vision_share=0.0, learning_rate=1e-3)
    train(shared, tmp_path / "two")
    both = Trainer(shared, tmp_path / "two")
    both.resume()
    parts = [Trainer(shared, tmp_path / f"part{rank}", rank) for rank in (0, 1)]
    gradients = []
    for part in parts:
        rng = np.random.default_rng([0, part.rank, 0])
        torch.manual_seed(int(rng.integers(2**63)))
        length = part.batches.draw_length(part.train_pool, np.random.default_rng([0, 0]))
        losses, _ = part.network(part.batches.draw(part.train_pool, 4, rng, length))
        losses.total.backward()
        gradients.append({n: p.grad for n, p in part.network.named_parameters()})
    one = parts[0]
    parameters = dict(one.network.named_parameters())
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            parameter.grad = (gradients[0][name] + gradients[1][name]) / 2
    torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
    one._ready_optimiser("full").step(one._learning_rate("full"))
    for name, value in both.network.state_dict().items():
        torch.testing.assert_close(value, one.network.state_dict()[name], atol=2e-6, rtol=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(config, tmp_path):
    with pytest.raises(ConfigurationError, match="shared by 3"):
        Trainer(replace(config, processes=3), tmp_path)


def test_muon_trains_and_resumes(config, tmp_path):
    muon = replace(config, optimiser="muon", samples=24)
    unbroken = Trainer(muon, tmp_path / "whole")
    unbroken.run()

    class Stop(Exception):
        pass

    first = Trainer(muon, tmp_path / "parts")

    def stop(progress):
        if progress.done >= 16:
            first.save({})
            raise Stop

    with pytest.raises(Stop):
        first.run(stop)
    second = Trainer(muon, tmp_path / "parts")
    second.run()
    for name, value in second.network.state_dict().items():
        assert torch.equal(value, unbroken.network.state_dict()[name]), name


def test_an_unknown_optimiser_is_refused(config, tmp_path):
    with pytest.raises(ConfigurationError, match="sgd"):
        Trainer(replace(config, optimiser="sgd"), tmp_path).run()


def test_pictures_are_the_same_kept_or_prepared_at_each_draw(demos, monkeypatch):
    kept = Demonstrations([demos], 112).pictures
    samples = np.array([3, 0, len(kept) - 1])
    monkeypatch.setattr(training_data, "_KEPT_BYTES", 0)
    drawn = Demonstrations([demos], 112).pictures
    assert drawn._kept is None and kept._kept is not None
    np.testing.assert_array_equal(drawn.gather(samples), kept.gather(samples))


def test_the_clock_can_end_a_run(config, tmp_path, monkeypatch):
    clock = iter(np.arange(0.0, 1e6, 10.0))  # s; 10 s pass at every look
    monkeypatch.setattr("specprune_ros.training.train.time.monotonic", lambda: float(next(clock)))
    trainer = Trainer(replace(config, samples=10**9, minutes=2.0), tmp_path)
    trainer.run()
    assert trainer.share == 1.0 and 0 < trainer.done < 1000


def test_plain_attention_is_attention(config, trained):
    """The attention for bfloat16 on a CPU computes what torch's does."""
    trainer = trained[0]
    losses, expected = outputs(trainer)
    trainer.network.use_plain_attention()
    _, plain = outputs(trainer)
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=0)
