"""DivPrune. Invariants of its definition: 1 sizes, 2 prefixes, 3 scale, 4 duplicates, 5 greedy."""
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_harness import Perturbing, bit_equal, embeddings, layout, run

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.methods.divprune import DivPrune, DivPruneConfig, farthest_first

LAYOUT = layout()


def features(seed: int, n: int = 10, width: int = 5) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def distances(x) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return 1 - x @ x.T


def by_definition(x, count: int) -> list[int]:
    """Farthest-first traversal, written out."""
    d = distances(x)
    others = d + np.diag([np.inf] * len(d))
    chosen = [int(others.min(1).argmax())]
    while len(chosen) < count:
        gap = d[:, chosen].min(1)
        gap[chosen] = -np.inf
        chosen.append(int(gap.argmax()))
    return chosen


seeds = st.integers(0, 10_000)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 10))
def test_greedy_equals_the_definition(seed, count):
    x = features(seed)
    assert farthest_first(x, count).tolist() == by_definition(x, count)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 9))
def test_prefixes_and_uniqueness(seed, count):
    x = features(seed)
    more = farthest_first(x, count + 1).tolist()
    assert farthest_first(x, count).tolist() == more[:count]
    assert len(set(more)) == count + 1


@settings(max_examples=30, deadline=None)
@given(seeds, st.lists(st.sampled_from([0.25, 0.5, 2.0, 8.0]), min_size=10, max_size=10))
def test_lengths_of_the_vectors_do_not_matter(seed, scales):
    x = features(seed)
    scaled = x * torch.tensor(scales)[:, None]
    assert farthest_first(scaled, 6).tolist() == farthest_first(x, 6).tolist()


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_distinct_ones_before_duplicates(seed):
    x = features(seed, 6)
    doubled = x.repeat(2, 1)
    picks = farthest_first(doubled, 6)
    assert sorted((picks % 6).tolist()) == list(range(6))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_gaps_shrink_and_reach_half_the_optimum(seed):
    """The bound needs a metric: the chord sqrt(2 delta), whose greedy picks are the same."""
    x = features(seed, 9)
    chord = np.sqrt(np.maximum(0, 2 * distances(x)))
    picks = farthest_first(x, 4).tolist()
    gaps = [chord[pick, picks[:i]].min() for i, pick in enumerate(picks) if i]
    assert all(b <= a + 1e-6 for a, b in zip(gaps, gaps[1:]))
    best = max(
        min(chord[a, b] for a, b in combinations(chosen, 2))
        for chosen in combinations(range(9), 4)
    )
    assert gaps[-1] >= best / 2 - 1e-6


def test_candidates_restrict_it_to_those_rows():
    x = features(3, 12)
    mask = torch.zeros(12, dtype=torch.bool)
    rows = [1, 2, 5, 7, 8, 11]
    mask[rows] = True
    alone = [rows[i] for i in farthest_first(x[rows], 4).tolist()]
    assert farthest_first(x, 4, mask).tolist() == alone


def test_a_zero_vector_is_no_poison():
    x = features(1)
    x[4] = 0
    assert len(set(farthest_first(x, 10).tolist())) == 10


def test_drops_before_the_first_layer():
    x = embeddings(LAYOUT)
    got = run(DivPrune(DivPruneConfig(keep=0.25)), LAYOUT, x)
    wanted = {v + 1 for v in by_definition(x[0, 1:33], 8)}
    assert all(got.visual(l) == wanted for l in range(8))
    assert sum(camera.kept_static for camera in got.result.cameras) == 8


def test_per_camera_pool():
    x = embeddings(LAYOUT)
    got = run(DivPrune(DivPruneConfig(keep=0.25, pool="per_camera")), LAYOUT, x)
    scene = {v + 1 for v in by_definition(x[0, 1:17], 4)}
    wrist = {v + 17 for v in by_definition(x[0, 17:33], 4)}
    assert got.visual(0) == scene | wrist


def test_keep_all_is_dense_bit_for_bit():
    x = embeddings(LAYOUT)
    assert bit_equal(run(DivPrune().with_keep(1.0), LAYOUT, x), run(DensePruner(), LAYOUT, x))


def test_what_is_dropped_has_no_influence_beyond_the_choice():
    """A dropped embedding made longer is dropped again (invariant 3) and changes nothing."""
    x = embeddings(LAYOUT)
    plain = run(DivPrune(), LAYOUT, x)
    longer = x.clone()
    longer[0, sorted(set(LAYOUT.visual) - plain.visual(0))] *= 2
    assert bit_equal(plain, run(DivPrune(), LAYOUT, longer))
    moved = run(DivPrune(), LAYOUT, x, wrap=lambda s: Perturbing(s, 1, plain.visual(0)))
    assert not bit_equal(plain, moved)


def test_bad_settings():
    with pytest.raises(ConfigurationError, match="divprune"):
        DivPruneConfig(keep=-1)
