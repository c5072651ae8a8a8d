"""Features of a camera that are used again while nothing in its picture changes."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from runtime_harness import EXACT, loaded, observation, picture, policy

from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Policy
from specprune_ros.runtime.choice import Runtime
from specprune_ros.runtime.reuse import VisionReuse

RUNTIMES = ["eager", "static"]


@pytest.fixture(scope="module")
def model():
    return loaded()


def reusing(model, similarity: float, runtime: str = "eager", pruning="specprune") -> Policy:
    return Policy(model, None, False, False, pruning, 8, 0.05,
                  Runtime(model.model, runtime, EXACT), VisionReuse(similarity))


def seen(number: int, primary: int = 0, wrist: int = 1):
    """An observation with pictures by their seeds."""
    return replace(observation(number), images={"primary": picture(primary),
                                                "wrist": picture(wrist)})


def count_images(model, monkeypatch) -> list[int]:
    """Pictures that the towers are given, call by call."""
    found, encode = [], model.model.encode_images

    def counted(pixels, *args, **kwargs):
        found.append(len(pixels))
        return encode(pixels, *args, **kwargs)

    monkeypatch.setattr(model.model, "encode_images", counted)
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_towers_run_only_for_cameras_whose_picture_changed(model, monkeypatch, runtime):
    subject, plain = reusing(model, 1.0, runtime), policy(model, runtime, settings=EXACT)
    stream = [seen(0), seen(1), seen(2, wrist=5), seen(3, primary=6, wrist=5),
              seen(4, primary=7, wrist=8)]
    expected = [plain.predict(s) for s in stream]
    images = count_images(model, monkeypatch)
    found = [subject.predict(s) for s in stream]
    assert images == [2, 1, 1, 2]
    assert [c.report.reused_cameras for c in found] == [
        (), ("primary", "wrist"), ("primary",), ("wrist",), ()]
    for a, b in zip(found, expected):
        assert [len(p) for p in a.report.kept_positions] == [
            len(p) for p in b.report.kept_positions]
        # One picture alone and two together are rounded differently.
        np.testing.assert_allclose(a.actions, b.actions, atol=2e-5, rtol=0)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_picture_that_is_the_same_gives_the_same_bits(model, runtime):
    subject, plain = reusing(model, 1.0, runtime), policy(model, runtime, settings=EXACT)
    for number in range(3):
        a, b = subject.predict(seen(number)), plain.predict(seen(number))
        assert np.array_equal(a.actions, b.actions)


def test_one_bit_is_a_change_at_1_and_none_below(model):
    changed = seen(1)
    changed.images["wrist"][100, 100, 0] ^= 1
    for similarity, reused in ((1.0, ("primary",)), (0.9, ("primary", "wrist"))):
        subject = reusing(model, similarity)
        subject.predict(seen(0))
        assert subject.predict(changed).report.reused_cameras == reused


def test_slow_changes_add_up(model):
    """Each picture is like the one before; compared is with the one the features are of."""
    subject, flat = reusing(model, 0.97), np.full((224, 224, 3), 60, np.uint8)
    reused = []
    for number in range(12):
        images = {"primary": flat + np.uint8(4 * number), "wrist": picture(1)}
        chunk = subject.predict(replace(observation(number), images=images))
        reused.append("primary" in chunk.report.reused_cameras)
    assert reused[1] and not all(reused[1:])


def test_episodes_do_not_share_features(model, monkeypatch):
    subject = reusing(model, 1.0)
    images = count_images(model, monkeypatch)
    for episode in (subject.make_episode(), subject.make_episode()):
        subject.predict(seen(0), episode)
    subject.predict(seen(0))
    subject.new_episode()
    subject.predict(seen(0))
    assert images == [2, 2, 2, 2]


def test_a_failed_query_leaves_no_features(model, monkeypatch):
    subject, healthy = reusing(model, 1.0), model.model.actions
    subject.predict(seen(0))
    monkeypatch.setattr(model.model, "actions", lambda read: healthy(read) * np.nan)
    with pytest.raises(Exception, match="non-finite"):
        subject.predict(seen(1, primary=9))
    monkeypatch.setattr(model.model, "actions", healthy)
    assert subject.predict(seen(2, primary=9)).report.reused_cameras == ("wrist",)


def test_other_methods_over_the_same_weights_reuse_too(model):
    subject = reusing(model, 1.0).with_pruning("off")
    subject.predict(seen(0))
    assert subject.predict(seen(1)).report.reused_cameras == ("primary", "wrist")


def test_it_is_off_unless_asked_for(model, monkeypatch):
    subject, images = policy(model), count_images(model, monkeypatch)
    for number in range(2):
        assert subject.predict(seen(number)).report.reused_cameras == ()
    assert images == [2, 2]
    assert subject._episode.state.vision is None


def test_warm_up_makes_the_programs(model):
    subject = reusing(model, 1.0, "static")
    subject.warm_up()
    for observed in (seen(0), seen(1), seen(2, wrist=3)):
        observed = replace(observed, instruction="warm up")
        assert not subject.predict(observed).report.cold


@pytest.mark.parametrize("similarity", [-0.1, 1.1, float("nan")])
def test_a_similarity_outside_of_its_range_is_refused(similarity):
    with pytest.raises(ConfigurationError, match=r"vision_reuse is .*in \[0, 1\]"):
        VisionReuse(similarity)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["static", "graph"])
def test_reuse_on_a_device_gives_the_actions_of_full_queries(runtime):
    on_device = loaded("cuda")
    subject = reusing(on_device, 1.0, runtime)
    plain = policy(on_device, runtime, settings=EXACT)
    stream = [seen(0), seen(1), seen(2, wrist=5), seen(3, primary=6, wrist=5)]
    reused = []
    for s in stream:
        a, b = subject.predict(s), plain.predict(s)
        reused.append(a.report.reused_cameras)
        np.testing.assert_allclose(a.actions, b.actions, atol=2e-3, rtol=0)
    assert reused == [(), ("primary", "wrist"), ("primary",), ("wrist",)]
    assert torch.isfinite(torch.as_tensor(a.actions)).all()
