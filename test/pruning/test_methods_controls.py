"""random and uniform: sizes, nesting, seeds, evenness, and the counts of another method."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods_harness import bit_equal, embeddings, episode, layout, run

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.methods.common import (
    Counts,
    counts_from,
    kept_count,
    scaled_boundary,
    top_indices,
)
from specprune_ros.pruning.methods.random import Random, RandomConfig
from specprune_ros.pruning.methods.sparsevlm import SparseVLM
from specprune_ros.pruning.methods.uniform import Uniform, UniformConfig, grid_order
from specprune_ros.types import Mode, PruneReport

LAYOUT = layout(patches=64)
BOTH = pytest.mark.parametrize("method, config", [(Random, RandomConfig), (Uniform, UniformConfig)])


def report_of(run_) -> PruneReport:
    kept = tuple(p.numpy() for p in run_.output.layer_positions)
    return PruneReport("x", Mode.COARSE, 0, kept, run_.result.cameras)


@BOTH
@pytest.mark.parametrize("cameras, keep, shares", [(2, 0.5, [32, 32]), (1, 0.25, [16]),
                                                   (3, 0.1, [7, 6, 6])])
def test_keeps_an_even_share_of_each_camera_from_the_start(method, config, cameras, keep, shares):
    got = run(method(config(keep=keep)), layout(cameras, 64))
    assert got.counts == [sum(shares)] * 8
    assert [camera.kept_static for camera in got.result.cameras] == shares


@BOTH
def test_boundary_moves_the_drop(method, config):
    assert run(method(config(boundary=16)), LAYOUT).counts == [128] * 4 + [64] * 4


@BOTH
def test_keep_all_is_dense_bit_for_bit(method, config):
    x = embeddings(LAYOUT)
    assert bit_equal(run(method().with_keep(1.0), LAYOUT, x), run(DensePruner(), LAYOUT, x))


# Seeds --------------------------------------------------------------------------------------


def test_draws_depend_on_seed_and_query_only():
    def kept(seed, query, **config):
        pruner = Random(RandomConfig(seed=seed, **config))
        return frozenset(run(pruner, LAYOUT, query_number=query).visual(7))

    assert kept(0, 1) == kept(0, 1)
    assert len({kept(0, 0), kept(0, 1), kept(1, 0), kept(1, 1)}) == 4
    fixed = {kept(0, query, same_every_query=True) for query in range(3)}
    assert fixed == {kept(0, 0)}


def test_every_patch_is_drawn_about_as_often():
    drawn = np.zeros(128)
    for query in range(60):
        drawn[[p - 1 for p in run(Random(), LAYOUT, depth=1, query_number=query).visual(0)]] += 1
    # Binomial(60, 1/2): 3.87 is one standard deviation.
    assert abs(drawn.mean() - 30) < 1e-9
    assert drawn.min() > 30 - 5 * 3.9
    assert drawn.max() < 30 + 5 * 3.9


# The grid -----------------------------------------------------------------------------------


def test_grid_at_the_round_counts():
    order = grid_order(16)
    rows, columns = order // 16, order % 16
    assert sorted(order.tolist()) == list(range(256))
    quarter = set(zip(rows[:64].tolist(), columns[:64].tolist()))
    assert quarter == {(r, c) for r in range(0, 16, 2) for c in range(0, 16, 2)}
    assert ((rows + columns)[:128] % 2 == 0).all()  # a checkerboard


@given(st.sampled_from([4, 5, 7, 16]), st.data())
def test_every_prefix_covers_the_quadrants_evenly(grid, data):
    order = grid_order(grid)
    assert sorted(order.tolist()) == list(range(grid * grid))
    if grid in (4, 16):
        count = data.draw(st.integers(1, grid * grid))
        half = grid // 2
        quadrant = (order[:count] // grid // half) * 2 + (order[:count] % grid) // half
        per_quadrant = torch.bincount(quadrant, minlength=4)
        assert per_quadrant.max() - per_quadrant.min() <= 1


# Counts of another method -------------------------------------------------------------------


@BOTH
def test_keeps_as_many_as_another_method_query_by_query_layer_by_layer(method, config):
    runs = episode(SparseVLM(), LAYOUT, 3)
    counts = counts_from([report_of(r) for r in runs])
    for number, other in enumerate(runs):
        got = run(method(config(counts=counts)), LAYOUT, query_number=number)
        for layer in range(8):
            for camera in range(2):
                tokens = set(LAYOUT.camera(camera))
                mine, theirs = got.visual(layer) & tokens, other.visual(layer) & tokens
                assert len(mine) == len(theirs)
        assert got.visual(7) != other.visual(7)
        assert all(got.visual(l + 1) <= got.visual(l) for l in range(7))


@BOTH
def test_counts_that_do_not_fit(method, config):
    counts = Counts((((64, 64),) * 8,))
    run(method(config(counts=counts)), LAYOUT)
    with pytest.raises(ConfigurationError, match="1 queries"):
        run(method(config(counts=counts)), LAYOUT, query_number=1)
    with pytest.raises(ConfigurationError, match="8 layers"):
        run(method(config(counts=counts)), LAYOUT, depth=4)
    with pytest.raises(ConfigurationError, match="cameras"):
        run(method(config(counts=counts)), layout(1, 64))
    growing = Counts((((4, 4),) * 4 + ((5, 4),) * 4,))
    with pytest.raises(ConfigurationError, match="grow"):
        run(method(config(counts=growing)), LAYOUT)


@BOTH
def test_a_count_may_reach_zero(method, config):
    counts = Counts((((64, 64), (10, 0), *((0, 0),) * 6),))
    assert run(method(config(counts=counts)), LAYOUT).counts == [128, 10, 0, 0, 0, 0, 0, 0]


# Shared helpers -----------------------------------------------------------------------------


@given(st.integers(1, 1024), st.data())
def test_a_count_is_met_exactly_by_its_ratio(total, data):
    count = data.draw(st.integers(1, total))
    assert kept_count(count / total, total) == count


def test_boundaries_scale_through_the_layer_that_scores():
    assert [scaled_boundary(b, 32) for b in (0, 2, 3, 7, 16)] == [0, 2, 3, 7, 16]
    assert [scaled_boundary(b, 8) for b in (0, 1, 2, 3, 7, 16)] == [0, 1, 1, 1, 2, 4]
    assert all(scaled_boundary(b, depth) >= 1 for b in (1, 2, 3) for depth in range(1, 32))


def test_ties_go_to_the_lower_index():
    assert top_indices(torch.tensor([1.0, 2.0, 2.0, 1.0, 2.0]), 2).tolist() == [1, 2]
    assert top_indices(torch.zeros(300), 5).tolist() == [0, 1, 2, 3, 4]
