"""The methods by name through the policy, on the golden frames: kept sets, costs, episodes."""
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from specprune_ros.policy import Observation, load_policy
from specprune_ros.pruning.methods.common import counts_from
from specprune_ros.pruning.methods.efficientvla import EfficientVLA
from specprune_ros.pruning.methods.random import Random, RandomConfig
from specprune_ros.pruning.registry import METHODS, known_methods, make_pruner

GOLDEN = Path(__file__).resolve().parents[1] / "data/oft_a"
NAMES = ("off", "specprune", *METHODS)
QUERIES = 5  # past every warm-up


@pytest.fixture(scope="module")
def policy():
    torch.set_num_threads(1)
    return load_policy(
        GOLDEN / "checkpoint", unnorm_key="libero_spatial_no_noops", center_crop=False,
        jpeg_roundtrip=False, pruning="off",
    )


@pytest.fixture(scope="module")
def frames():
    with np.load(GOLDEN / "case0.npz") as case0, np.load(GOLDEN / "case1.npz") as case1:
        pictures = [
            {"primary": case["cropped_full"], "wrist": case["cropped_wrist"]}
            for case in (case0, case1)
        ]
        return pictures, case0["proprio_raw"]


def observations(frames, cameras=("primary", "wrist")):
    """The golden frames, with a part of the other case's that moves from query to query."""
    (picture, other), proprio = frames
    for number in range(QUERIES):
        images = {name: picture["wrist" if "wrist" in name else name].copy() for name in cameras}
        low = 28 * number
        images["primary"][low : low + 56, 56:112] = other["primary"][low : low + 56, 56:112]
        yield Observation(images, "pick up the black bowl", proprio, stamp=0.4 * number)


@pytest.fixture(scope="module")
def chunks(policy, frames):
    """name -> the chunks of an episode."""
    result = {}
    for name in NAMES:
        other = policy.with_pruning(name)
        result[name] = [other.predict(o) for o in observations(frames)]
    return result


def kept(chunk) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(p.tolist()) for p in chunk.report.kept_positions)


@pytest.mark.parametrize("a, b", list(combinations(NAMES, 2)))
def test_no_two_methods_keep_the_same_sets(chunks, a, b):
    assert kept(chunks[a][-1]) != kept(chunks[b][-1])
    if "off" not in (a, b):
        # Not merely at other layers: the patches of the last layer differ, too.
        assert kept(chunks[a][-1])[-1] != kept(chunks[b][-1])[-1]


# Boundaries of the six layers of this checkpoint, and patches kept from there on.
@pytest.mark.parametrize("name, counts", [
    ("fastv", [512, 256, 256, 256, 256, 256]),
    ("sparsevlm", [512, 275, 182, 101, 101, 101]),
    ("divprune", [50] * 6),
    ("vla_pruner", [512, 256, 256, 256, 256, 256]),
    ("efficientvla", [512, 112, 112, 112, 112, 112]),
    ("random", [256] * 6),
    ("uniform", [256] * 6),
])
def test_each_drops_at_its_layers(chunks, name, counts):
    report = chunks[name][-1].report
    visual = [int(((p >= 1) & (p <= 512)).sum()) for p in report.kept_positions]
    assert visual == counts
    assert report.visual_tokens_kept == counts[-1]
    assert report.method == name


def test_vla_cache_recomputes_what_moved(chunks):
    report = chunks["vla_cache"][-1].report
    visual = [int(((p >= 1) & (p <= 512)).sum()) for p in report.kept_positions]
    assert visual[0] == 512 > visual[1] >= visual[2] >= visual[3] == visual[5]
    assert 212 <= visual[5]  # at most 150 of each camera are reused
    # Rows 8..11 (pixels 112..167) show a new part of the other picture in columns 4..7.
    moved = {1 + 16 * row + column for row in range(8, 12) for column in range(4, 8)}
    assert moved <= set(report.kept_positions[-1].tolist())


@pytest.mark.parametrize("name", METHODS)
def test_keep_all_gives_the_actions_of_dense(policy, frames, chunks, name):
    pruner = make_pruner(name).with_keep(1.0)
    if name == "efficientvla":  # the layer part has a knob of its own
        pruner = EfficientVLA(replace(pruner.config, layers_kept=32))
    other = policy.with_pruning(pruner)
    for observation, dense in zip(islice(observations(frames), 2), chunks["off"]):
        ours = other.predict(observation)
        assert np.array_equal(ours.normalized_actions, dense.normalized_actions)
        assert ours.report.flops == ours.report.dense_flops


@pytest.mark.parametrize("name", METHODS)
def test_flops_are_those_of_the_rows_and_keys(policy, chunks, name):
    report = chunks[name][-1].report
    rows = [len(p) for p in report.kept_positions]
    length = len(chunks["off"][0].report.kept_positions[0])
    keys = [length] * 6 if name.startswith("vla_cache") else list(rows)
    total = policy.decoder_shape.flops(rows, keys)
    if name == "efficientvla":  # one of the layers behind the drop is passed by
        total = policy.decoder_shape.flops(rows[:5], keys[:5])
    assert report.flops == total
    assert report.flops < report.dense_flops


@pytest.mark.parametrize("name", METHODS)
def test_actions_are_finite_and_not_those_of_dense(chunks, name):
    ours, dense = chunks[name][-1].normalized_actions, chunks["off"][-1].normalized_actions
    assert np.isfinite(ours).all()
    assert not np.array_equal(ours, dense)


@pytest.mark.parametrize("name, dense", [("vla_pruner", 3), ("vla_cache", 1), ("efficientvla", 1),
                                         ("fastv", 0), ("divprune", 0)])
def test_warm_up_is_dense_and_reported(chunks, name, dense):
    flags = [chunk.report.dense_refresh for chunk in chunks[name]]
    assert flags == [True] * dense + [False] * (QUERIES - dense)
    for ours, theirs in zip(chunks[name][:dense], chunks["off"]):
        assert np.array_equal(ours.normalized_actions, theirs.normalized_actions)


@pytest.mark.parametrize("name", ["vla_cache", "vla_pruner", "efficientvla"])
def test_state_goes_with_the_episode_and_the_prompt(policy, frames, name):
    other = policy.with_pruning(name)
    first, *_, last = observations(frames)
    for observation in observations(frames):
        other.predict(observation)
    changed = Observation(last.images, "open the drawer", last.proprio, last.stamp + 0.4)
    assert other.predict(changed).report.dense_refresh
    other.new_episode()
    assert other.predict(first).report.dense_refresh


@pytest.mark.parametrize("cameras", [("primary",), ("primary", "left_wrist", "right_wrist")])
@pytest.mark.parametrize("name", ["vla_cache", "efficientvla", "sparsevlm"])
def test_one_and_three_cameras(policy, frames, name, cameras):
    other = policy.with_pruning(name)
    *_, last = [other.predict(o) for o in observations(frames, cameras)]
    assert [camera.name for camera in last.report.cameras] == list(cameras)
    assert last.report.flops < last.report.dense_flops


def test_random_control_matches_the_default_method(policy, frames, chunks):
    counts = counts_from([chunk.report for chunk in chunks["specprune"]])
    control = policy.with_pruning(Random(RandomConfig(counts=counts)))
    for ours, theirs in zip(map(control.predict, observations(frames)), chunks["specprune"]):
        for mine, default in zip(ours.report.kept_positions, theirs.report.kept_positions):
            assert len(mine) == len(default)
        assert ours.report.flops == theirs.report.flops


def test_all_methods_are_known():
    assert set(NAMES) <= set(known_methods())
