"""FastV. Invariants of its definition: 1 keep-all is dense, 2 sizes, 3 scores, 5 no influence.

(4, permuting cameras, holds only without RoPE and is no property of this model.)
"""
import numpy as np
import pytest
import torch
from methods_harness import (
    Perturbing,
    attention_of,
    bit_equal,
    embeddings,
    episode,
    layout,
    recorded,
    run,
)

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.methods.common import mean_attention
from specprune_ros.pruning.methods.fastv import FastV, FastVConfig

LAYOUT = layout()


def expected(recorder, layer, rows, count):
    """Positions of the ``count`` patches that these rows attend to most, by numpy."""
    scores = attention_of(recorder, layer, rows).mean(0)[1 : 1 + LAYOUT.visual_tokens]
    return {int(v) + 1 for v in np.argsort(-scores, kind="stable")[:count]}


@pytest.mark.parametrize("depth, boundary", [(8, 1), (32, 2)])
def test_keeps_the_patches_that_receive_most_attention(depth, boundary):
    got, recorder = recorded(FastV(), LAYOUT, depth=depth)
    assert got.counts == [32] * boundary + [16] * (depth - boundary)  # invariant 2
    wanted = expected(recorder, boundary - 1, range(LAYOUT.length), 16)
    assert all(got.visual(l) == wanted for l in range(boundary, depth))


@pytest.mark.parametrize("rows, positions", [
    ("last_prompt", [LAYOUT.readout.start]),
    ("readout", LAYOUT.readout),
    ("stop", [LAYOUT.length - 1]),
])
def test_rows_decide_whose_attention_counts(rows, positions):
    got, recorder = recorded(FastV(FastVConfig(rows=rows)), LAYOUT)
    assert got.visual(1) == expected(recorder, 0, positions, 16)


def test_row_choices_differ():
    """Seen after layer 1: in layer 0 the zero placeholders attend to all keys alike."""
    kept = {
        rows: frozenset(run(FastV(FastVConfig(rows=rows)), LAYOUT, depth=32).visual(7))
        for rows in ("all", "last_prompt", "readout", "stop")
    }
    assert len(set(kept.values())) == 4


def test_per_camera_pool_gives_each_camera_its_share():
    got = run(FastV(FastVConfig(pool="per_camera", keep=9 / 32)), LAYOUT)
    assert [camera.kept_static for camera in got.result.cameras] == [5, 4]
    for index, count in enumerate((5, 4)):
        assert len(got.visual(7) & set(LAYOUT.camera(index))) == count


def test_keep_all_is_dense_bit_for_bit():
    x = embeddings(LAYOUT)
    assert bit_equal(run(FastV().with_keep(1.0), LAYOUT, x), run(DensePruner(), LAYOUT, x))


def test_scores_are_shares_of_attention():
    _, recorder = recorded(FastV(), LAYOUT)
    probe = recorder.probes[0]
    scores = mean_attention(probe, probe.positions)
    wanted = attention_of(recorder, 0, range(LAYOUT.length)).mean(0)
    assert torch.allclose(scores.double(), torch.from_numpy(wanted), atol=1e-6)
    assert scores[1 : 1 + LAYOUT.visual_tokens].sum() <= 1.0


def test_what_is_dropped_has_no_influence_and_what_is_kept_has():
    plain = run(FastV(), LAYOUT)
    dropped = set(LAYOUT.visual) - plain.visual(7)
    assert bit_equal(plain, run(FastV(), LAYOUT, wrap=lambda s: Perturbing(s, 1, dropped)))
    kept = plain.visual(7)
    assert not bit_equal(plain, run(FastV(), LAYOUT, wrap=lambda s: Perturbing(s, 1, kept)))


def test_no_state_across_queries():
    assert all(r.result.history is None for r in episode(FastV(), LAYOUT, 2))


@pytest.mark.parametrize("wrong", [{"keep": 0.0}, {"keep": 1.5}, {"rows": "some"},
                                   {"pool": "each"}, {"boundary": 0}])
def test_bad_settings(wrong):
    with pytest.raises(ConfigurationError, match="fastv"):
        FastVConfig(**wrong)
