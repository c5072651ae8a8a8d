"""Queries as CUDA graphs, against the same programs run directly, eager queries, and the CPU."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from runtime_harness import (
    EXACT,
    PROPRIO,
    TASK,
    loaded,
    observation,
    picture,
    policy,
)

from specprune_ros.bench.models import Shape
from specprune_ros.policy import FixedSettings, Policy
from specprune_ros.pruning.given import GivenRows
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.runtime.choice import Runtime
from specprune_ros.runtime.frames import FramePreparer
from specprune_ros.runtime.streams import SideStream
from specprune_ros.vla.openvla_oft import preprocess
from specprune_ros.vla.openvla_oft.preprocess_torch import prepare_frames

pytestmark = pytest.mark.gpu

# Sums of float32 products in another order, over eight layers.
CLOSE = {"atol": 5e-4, "rtol": 0}


@pytest.fixture(scope="module")
def model():
    return loaded("cuda")


@pytest.fixture(scope="module")
def on_cpu():
    """The same weights on the CPU."""
    cpu, cuda = loaded("cpu"), loaded("cuda")
    weights = dict(cuda.model.named_parameters())
    with torch.no_grad():
        for name, parameter in cpu.model.named_parameters():
            parameter.copy_(weights[name])
    return cpu, cuda


def queries(subject, count: int = 3, **options):
    return [subject.predict(observation(number, **options)) for number in range(count)]


def kept(chunk) -> list[list[int]]:
    return [positions.tolist() for positions in chunk.report.kept_positions]


# The same results ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["off", *PRESETS])
@pytest.mark.parametrize("settings", [EXACT, FixedSettings()], ids=["exact", "padded"])
def test_a_graph_does_what_its_program_does(model, name, settings):
    """Same kernels on the same shapes: same rows, and the same actions but for rounding."""
    for graph, static in zip(queries(policy(model, "graph", name, settings)),
                             queries(policy(model, "static", name, settings))):
        assert graph.report.runtime == "graph" and static.report.runtime == "static"
        assert kept(graph) == kept(static)
        np.testing.assert_allclose(graph.actions, static.actions, **CLOSE)
        assert graph.report.cameras == static.report.cameras


@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_same_actions_as_eager_for_the_same_kept_rows(model, cameras):
    graph = policy(model, "graph")
    for number in range(3):
        seen = observation(number, cameras=cameras)
        chunk = graph.predict(seen)
        eager = policy(model, "eager", GivenRows.of(chunk.report.kept_positions))
        np.testing.assert_allclose(eager.predict(seen).actions, chunk.actions, **CLOSE)


def test_dense_graph_is_dense_eager(model):
    for proprio in (PROPRIO, None):
        seen = observation(0, proprio=proprio)
        graph = policy(model, "graph", "off").predict(seen)
        eager = policy(model, "eager", "off").predict(seen)
        np.testing.assert_allclose(graph.actions, eager.actions, **CLOSE)


def test_keeping_every_patch_is_dense(model):
    """Arm d with all 512 patches is arm b."""
    every = GivenRows({2: range(policy(model).predict(observation(0)).report
                                .kept_positions[0].size)})
    seen = observation(0)
    dense = policy(model, "graph", "off", EXACT).predict(seen)
    told = policy(model, "graph", every, EXACT).predict(seen)
    np.testing.assert_allclose(told.actions, dense.actions, **CLOSE)


def test_the_device_computes_what_the_cpu_computes(on_cpu):
    cpu, cuda = on_cpu
    for a, b in zip(queries(policy(cpu, "static", settings=EXACT)),
                    queries(policy(cuda, "graph", settings=EXACT))):
        same = [len(set(x) & set(y)) / len(set(x) | set(y)) for x, y in zip(kept(a), kept(b))]
        assert min(same) > 0.98, same
        if min(same) == 1.0:
            np.testing.assert_allclose(a.actions, b.actions, atol=2e-3, rtol=0)


def test_the_same_query_gives_the_same_bits_every_time(model):
    """A result that moves is a race: between streams, or with memory that was given away."""
    subject = policy(model, "graph")
    first = queries(subject)
    for _ in range(30):
        subject.new_episode()
        for expected, chunk in zip(first, queries(subject)):
            assert kept(chunk) == kept(expected)
            assert np.array_equal(chunk.actions, expected.actions)


def test_results_outlive_the_next_replay(model):
    subject = policy(model, "graph")
    chunks = queries(subject, 2)
    history = subject._episode.state.history.scores
    before = [chunk.actions.copy() for chunk in chunks], history.clone(), kept(chunks[1])
    queries(subject, 4, seed=99)
    assert all(np.array_equal(a, c.actions) for a, c in zip(before[0], chunks))
    assert torch.equal(before[1], history)
    assert kept(chunks[1]) == before[2]


def test_two_episodes_take_turns_on_one_graph(model):
    subject = policy(model, "graph")

    def run(order):
        episodes = {name: subject.make_episode() for name in "ab"}
        seen = {name: [] for name in "ab"}
        for number, name in order:
            chunk = subject.predict(observation(number, seed=7 * (name == "b")), episodes[name])
            seen[name].append(chunk.actions)
        return seen

    together = run([(k, name) for k in range(3) for name in "ab"])
    apart = run([(k, "a") for k in range(3)] + [(k, "b") for k in range(3)])
    for name in "ab":
        np.testing.assert_array_equal(together[name], apart[name])


# Bits and streams ---------------------------------------------------------------------------


def test_towers_on_two_streams_see_what_they_see_one_after_the_other(model):
    network = model.model
    side = SideStream(torch.device("cuda"))
    frame = torch.stack([torch.from_numpy(picture(n)) for n in range(2)]).cuda()
    with torch.inference_mode():
        pixels = network.pixel_values(frame)
        expected = network.encode_images(pixels)
        for _ in range(20):
            assert torch.equal(network.encode_images(pixels, side), expected)


@pytest.mark.parametrize("sizes", [[(256, 256)] * 2, [(480, 640), (256, 256)]])
def test_preprocessing_is_that_of_the_host(sizes):
    preparer = FramePreparer(torch.device("cuda"), 224, True, True)
    for seed in range(3):
        images = [np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
                  for size in sizes]
        if seed == 1:
            preparer.learn(images)
        found = preparer(images).cpu().numpy().astype(int)
        expected = [preprocess.prepare_image(image) for image in images]
        assert np.abs(found - expected).max() <= 1
        assert (found != expected).mean() < 1e-4
        raw = torch.from_numpy(images[0])[None].cuda()
        coded = prepare_frames(raw[:, :224, :224], 224, False, True).cpu().numpy()[0]
        np.testing.assert_array_equal(coded, preprocess.jpeg_round_trip(images[0][:224, :224]))


# What a query costs beside its work ---------------------------------------------------------


@pytest.mark.parametrize("name", ["off", "specprune"])
def test_no_query_waits_for_the_device_inside(model, name):
    """Nothing but the last copy is waited for, which the debug mode does not count."""
    subject = policy(model, "graph", name)
    subject.warm_up()
    queries(subject)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3, 9):
            subject.observe(observation(number).images, 0.4 * number - 0.05)
            subject.predict(observation(number, speed=0.3 * (number % 2)))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_warm_policies_capture_nothing_more(model):
    subject = policy(model, "graph")
    subject.warm_up()
    known = set(subject._executor._programs)
    for task in ("push it", TASK, TASK + " and then come back to where you were before"):
        subject.new_episode()
        for number, speed in enumerate((0.3, 0.3, 0.0)):
            assert not subject.predict(observation(number, task=task, speed=speed)).report.cold
    assert set(subject._executor._programs) == known


def test_memory_does_not_grow(model):
    subject = policy(model, "graph")
    queries(subject, 4)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        subject.new_episode()
        queries(subject, 4)
    assert torch.cuda.memory_allocated() - before < 2**20


def test_a_pruned_query_needs_no_more_memory_than_a_dense_one():
    model = loaded("cuda", "bfloat16", Shape(
        512, 1408, 8, 8, (128, 3, 2, 512), (128, 3, 2, 512), 128, 576))
    peaks = {}
    for name in ("off", "specprune"):
        subject = policy(model, "static", name, EXACT)
        for number in range(3):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            subject.predict(observation(number))
            peaks[name] = torch.cuda.max_memory_allocated() - before
    assert peaks["specprune"] <= peaks["off"], peaks


# Precision, and the tests of the CPU on the device ------------------------------------------


def test_bfloat16_selects_mostly_what_float32_selects():
    """Invariant 6 on the device: overlap of the kept patches of the same scene."""
    shape = Shape(512, 1408, 8, 8, (128, 3, 2, 512), (128, 3, 2, 512), 128, 576)
    full = loaded("cuda", "float32", shape)
    half = loaded("cuda", "bfloat16", shape)
    weights = dict(full.model.named_parameters())
    with torch.no_grad():
        for name, parameter in half.model.named_parameters():
            parameter.copy_(weights[name])
    a, b = (queries(policy(m, "graph", settings=EXACT), 2)[1] for m in (full, half))
    visual = [{p for p in layer if 1 <= p <= 512} for layer in (kept(a)[2], kept(b)[2])]
    overlap = len(visual[0] & visual[1]) / len(visual[0] | visual[1])
    assert overlap > 0.8, overlap


def test_auto_replays_graphs_and_runs_other_methods_eagerly(model):
    subject = Policy(model, None, False, False, "specprune", 8, 0.05, Runtime(model.model))
    assert subject.predict(observation(0)).report.runtime == "graph"
    other = subject.with_pruning("fastv")
    assert other.predict(observation(0)).report.runtime == "eager"


def test_a_change_of_budgets_within_a_bucket_needs_no_capture(model):
    subject = policy(model, "graph")
    queries(subject, 2)
    known = set(subject._executor._programs)
    config = preset("specprune")
    subject.set_pruning(replace(config, static=replace(config.static, tau_scene=0.9)))
    assert not any(chunk.report.cold for chunk in queries(subject, 2))
    assert set(subject._executor._programs) == known
