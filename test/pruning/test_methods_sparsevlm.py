"""SparseVLM. Invariants of its definition: 1 keep-all, 2 raters, 3 counts, 4 merges, 5 no noise."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_harness import attention_of, bit_equal, embeddings, layout, recorded, run

from specprune_ros.errors import ConfigurationError, MethodUnavailable
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.methods.sparsevlm import (
    SparseVLM,
    SparseVLMConfig,
    choose_raters,
    cluster_tokens,
    merge_tokens,
)

LAYOUT = layout(patches=64)
V = LAYOUT.visual_tokens  # 128
KEEPS = [int(V * share / 576 + 0.5) for share in (300, 200, 110)]
PLAIN = SparseVLMConfig(recycle=0.0)


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def raters_by_definition(x) -> list[int]:
    text = x[0, list(LAYOUT.instruction)].double().numpy()
    visual = x[0, 1 : 1 + V].double().numpy()
    relevance = softmax(text @ visual.T, 0).mean(1)
    return [p for p, r in zip(LAYOUT.instruction, relevance) if r >= relevance.mean()]


# Budgets ------------------------------------------------------------------------------------


def test_published_list_on_the_reference_depth():
    full = layout(patches=256, prompt=34, instruction=(9, 29))
    got = run(SparseVLM(), full, depth=32)
    stages = [got.counts[l] for l in (0, 3, 7, 16)]
    assert stages == [512, 275, 182, 101]
    assert sorted(set(got.counts), reverse=True) == stages
    bare = run(SparseVLM(PLAIN), full, depth=32)
    assert [bare.counts[l] for l in (2, 3, 7, 16)] == [512, 267, 178, 98]


@pytest.mark.parametrize("keep, keeps", [
    (1.67 / 3, (445, 297, 163)),  # the points of equal cost, as multiples of the list
    (1.22 / 3, (325, 217, 119)),
    (0.76 / 3, (203, 135, 74)),
    (0.64, (512, 341, 188)),  # the first stage keeps all from here on
    (1.0, (512, 512, 512)),
])
def test_keep_scales_the_list(keep, keeps):
    shares = SparseVLMConfig(keep=keep).keep_shares()
    assert [int(512 * s + 0.5) for s in shares] == pytest.approx(keeps, abs=1)


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_shares_grow_with_keep(a, b):
    low, high = (SparseVLMConfig(keep=k).keep_shares() for k in sorted((a, b)))
    assert all(x <= y + 1e-12 for x, y in zip(low, high))
    assert all(0 < x <= 1 for x in low)


def test_stages_of_a_shallow_decoder():
    got = run(SparseVLM(PLAIN), LAYOUT)
    assert got.counts == [V, KEEPS[0], KEEPS[1], KEEPS[1], *[KEEPS[2]] * 4]
    assert got.result.dynamic_layers == (1, 3)
    kept = [sum(c) for c in zip(*(camera.kept_dynamic for camera in got.result.cameras))]
    assert kept == KEEPS[1:]


def test_counts_with_recycling_add_up():
    got = run(SparseVLM(), LAYOUT)
    alive = V
    for boundary, keep in zip((1, 2, 4), KEEPS):
        stage = got.session.recycled[boundary]
        dropped = alive - keep
        assert len(stage.merged) == int(0.3 * dropped) + 1
        assert len(stage.centres) == len(stage.merged) // 10 + 1
        assert len(stage.discarded) == dropped - len(stage.merged)
        assert torch.bincount(stage.cluster).sum() == len(stage.merged)
        before, after = got.visual(boundary - 1), got.visual(boundary)
        gone = {*stage.merged.tolist(), *stage.discarded.tolist()}
        # Every token of before is kept, merged or discarded, and in one of these only.
        assert before - gone == after - set(stage.centres.tolist())
        assert len(gone) == dropped
        alive = keep + len(stage.centres)
        assert got.counts[boundary] == alive


def test_rank_budget_is_the_number_of_raters():
    got, recorder = recorded(SparseVLM(SparseVLMConfig(budget="rank", recycle=0.0)), LAYOUT)
    raters = len(raters_by_definition(recorder.entering[0]))
    assert got.counts[1] == min(V, int(13.5 * raters)) == got.counts[7]


# Scores and raters --------------------------------------------------------------------------


def test_keeps_what_the_raters_attend_to():
    got, recorder = recorded(SparseVLM(PLAIN), LAYOUT)
    raters = raters_by_definition(recorder.entering[0])
    assert 0 < len(raters) < len(LAYOUT.instruction)
    alive = sorted(LAYOUT.visual)
    for boundary, keep in zip((1, 2, 4), KEEPS):
        scores = attention_of(recorder, boundary - 1, raters).mean(0)[1 : 1 + len(alive)]
        best = np.argsort(-scores, kind="stable")[:keep]
        alive = sorted(alive[i] for i in best)
        assert got.visual(boundary) == set(alive)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_raters_exist_whatever_the_text(seed, count):
    generator = torch.Generator().manual_seed(seed)
    weights = choose_raters(
        torch.randn(count, 6, generator=generator), torch.randn(12, 6, generator=generator)
    )
    assert weights.sum() == pytest.approx(1.0)
    assert len(set(weights[weights > 0].tolist())) == 1


def test_equal_text_tokens_are_all_raters():
    weights = choose_raters(torch.ones(7, 6) / 3, torch.randn(12, 6))
    assert (weights > 0).all()


def test_raters_do_not_depend_on_the_placeholders():
    x = embeddings(LAYOUT)
    one, two = (run(SparseVLM(), LAYOUT, e).session for e in (x, x.clone()))
    assert torch.equal(one._weights, two._weights)
    x[:, LAYOUT.placeholders.start : LAYOUT.length] += 5
    assert torch.equal(one._weights, run(SparseVLM(), LAYOUT, x).session._weights)


# Recycling ----------------------------------------------------------------------------------


def test_merged_rows_are_the_means_of_their_clusters():
    got, recorder = recorded(SparseVLM(), LAYOUT)
    stage = got.session.recycled[1]
    positions = recorder.probes[0].positions.tolist()
    after = got.output.layer_positions[1].tolist()
    for cluster, centre in enumerate(stage.centres.tolist()):
        members = stage.merged[stage.cluster == cluster].tolist()
        assert centre in members
        rows = recorder.hidden[0][0, [positions.index(p) for p in members]]
        merged = recorder.entering[1][0, after.index(centre)]
        assert torch.allclose(merged, rows.mean(0), atol=1e-6)
    kept = sorted(got.visual(1) - set(stage.centres.tolist()))
    rows = recorder.hidden[0][0, [positions.index(p) for p in kept]]
    assert torch.equal(recorder.entering[1][0, [after.index(p) for p in kept]], rows)


def test_sum_is_the_paper_s_merge():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assigned = torch.tensor([0, 1, 0])
    assert merge_tokens(x, assigned, 2, "sum").tolist() == [[6, 8], [3, 4]]
    assert merge_tokens(x, assigned, 2, "mean").tolist() == [[3, 4], [3, 4]]


def clusters_by_definition(x, count):
    x = x.double().numpy()
    d = np.linalg.norm(x[:, None] - x[None], axis=-1) / np.sqrt(x.shape[1])
    density = np.exp(-(np.sort(d, 1)[:, :count] ** 2).mean(1))
    n = range(len(x))  # of equal densities (two mutual neighbours) the lower index is denser
    delta = [
        min([d[i, j] for j in n if (density[j], -j) > (density[i], -i)], default=d.max()) for i in n
    ]
    centres = np.argsort(-density * np.array(delta), kind="stable")[:count]
    assigned = d[:, centres].argmin(1)
    assigned[centres] = np.arange(count)
    return centres, assigned


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_clusters_by_definition(seed, count):
    x = torch.randn(17, 4, generator=torch.Generator().manual_seed(seed))
    centres, assigned = cluster_tokens(x, count)
    wanted_centres, wanted = clusters_by_definition(x, count)
    assert centres.tolist() == wanted_centres.tolist()
    assert assigned.tolist() == wanted.tolist()


def test_identical_tokens_merge_to_themselves():
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)).repeat(12, 1)
    centres, assigned = cluster_tokens(x, 3)
    assert centres.tolist() == [0, 1, 2]
    assert torch.allclose(merge_tokens(x, assigned, 3, "mean"), x[:3])


# The rest -----------------------------------------------------------------------------------


def test_keep_all_is_dense_bit_for_bit():
    x = embeddings(LAYOUT)
    got = run(SparseVLM().with_keep(1.0), LAYOUT, x)
    assert bit_equal(got, run(DensePruner(), LAYOUT, x))
    assert not got.session.recycled


def test_two_runs_are_identical_and_positions_ascend():
    one, two = run(SparseVLM(), LAYOUT), run(SparseVLM(), LAYOUT)
    assert bit_equal(one, two)
    for positions in one.output.layer_positions:
        assert (positions.diff() > 0).all()


def test_no_instruction_is_unavailable():
    with pytest.raises(MethodUnavailable, match="instruction"):
        run(SparseVLM(), layout(instruction=(9, 9)))


@pytest.mark.parametrize("wrong", [{"keep": 2.0}, {"recycle": -0.1}, {"shares": (0.5,)},
                                   {"budget": "x"}, {"merge": "x"}, {"raters_from": "x"}])
def test_bad_settings(wrong):
    with pytest.raises(ConfigurationError, match="sparsevlm"):
        SparseVLMConfig(**wrong)
