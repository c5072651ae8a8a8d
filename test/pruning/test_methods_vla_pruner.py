"""VLA-Pruner. Invariants of its definition: 1 keep-all, 2 sizes, 3 decay, 4 and 5 sets."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_harness import attention_of, bit_equal, embeddings, episode, layout, recorded, run

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.methods.common import top_indices
from specprune_ros.pruning.methods.divprune import farthest_first
from specprune_ros.pruning.methods.vla_pruner import (
    ActionMaps,
    VLAPruner,
    VLAPrunerConfig,
    select_patches,
    temporal_estimate,
)

LAYOUT = layout()
V = LAYOUT.visual_tokens


def maps(seed: int = 0, count: int = 3) -> ActionMaps:
    generator = torch.Generator().manual_seed(seed)
    return ActionMaps(tuple(torch.rand(V, generator=generator) for _ in range(count)))


def test_dense_until_the_window_is_full_then_exactly_m():
    runs = episode(VLAPruner(), LAYOUT, 5, depth=32)
    assert [r.counts[-1] for r in runs] == [32, 32, 32, 16, 16]
    assert runs[3].counts == [32] * 3 + [16] * 29
    assert [r.result.dense_refresh for r in runs] == [True, True, True, False, False]
    assert [len(r.result.history.maps) for r in runs] == [1, 2, 3, 3, 3]


def test_warm_up_queries_are_dense_bit_for_bit():
    for number, got in enumerate(episode(VLAPruner(), LAYOUT, 3)):
        assert bit_equal(got, run(DensePruner(), LAYOUT, embeddings(LAYOUT, number)))


def test_keep_all_is_dense_from_the_first_query():
    for number, got in enumerate(episode(VLAPruner().with_keep(1.0), LAYOUT, 5)):
        assert bit_equal(got, run(DensePruner(), LAYOUT, embeddings(LAYOUT, number)))


def test_action_map_is_the_read_out_rows_mean_over_the_deeper_half():
    got, recorder = recorded(VLAPruner(), LAYOUT)
    per_layer = [attention_of(recorder, l, LAYOUT.readout).mean(0)[1 : 1 + V] for l in range(4, 8)]
    newest = got.result.history.maps[0].double().numpy()
    assert np.allclose(newest, np.mean(per_layer, axis=0), atol=1e-6)


@pytest.mark.parametrize("carry", [0.0, 0.5])
def test_patches_that_were_dropped_score_zero_or_carry_on(carry):
    earlier = maps()
    got = run(VLAPruner(VLAPrunerConfig(carry=carry)), LAYOUT, history=earlier, query_number=3)
    newest = got.result.history.maps[0]
    dropped = sorted(p - 1 for p in set(LAYOUT.visual) - got.visual(7))
    assert len(dropped) == 16
    assert torch.equal(newest[dropped], carry * earlier.maps[0][dropped])
    assert (newest[[p - 1 for p in sorted(got.visual(7))]] > 0).all()


def test_keeps_what_the_definition_says():
    earlier = maps()
    x = embeddings(LAYOUT)
    got, recorder = recorded(VLAPruner(), LAYOUT, x, history=earlier, query_number=3)
    semantic = attention_of(recorder, 0, range(LAYOUT.placeholders.start)).mean(0)[1 : 1 + V]
    action = sum(0.8 ** (i + 1) * m.numpy() for i, m in enumerate(earlier.maps))
    union = set(np.argsort(-semantic, kind="stable")[:16])
    union |= set(np.argsort(-action, kind="stable")[:16])
    rows = sorted(int(v) for v in union)
    wanted = {rows[i] + 1 for i in farthest_first(x[0, 1 : 1 + V][rows], 16).tolist()}
    assert got.visual(1) == wanted == got.visual(7)


def test_newest_query_weighs_most():
    new, old = torch.zeros(4), torch.zeros(4)
    new[0], old[1] = 1.0, 1.0
    estimate = temporal_estimate((new, old), 0.8)
    assert estimate[0] > estimate[1] > estimate[2]
    assert estimate[:2].tolist() == pytest.approx([0.8, 0.64])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_result_lies_in_the_union(seed, count):
    generator = torch.Generator().manual_seed(seed)
    semantic, action = torch.rand(2, 12, generator=generator)
    features = torch.randn(12, 5, generator=generator)
    chosen = set(select_patches(semantic, action, features, count).tolist())
    first, second = (set(top_indices(s, count).tolist()) for s in (semantic, action))
    assert len(chosen) == count
    assert chosen <= first | second
    same = set(select_patches(semantic, semantic, features, count).tolist())
    assert same == first  # invariant 4: no diversity step


@pytest.mark.parametrize("wrong", [{"window": 0}, {"decay": 0.0}, {"carry": 2.0},
                                   {"action_layers": ()}, {"boundary": 0}])
def test_bad_settings(wrong):
    with pytest.raises(ConfigurationError, match="vla_pruner"):
        VLAPrunerConfig(**wrong)
