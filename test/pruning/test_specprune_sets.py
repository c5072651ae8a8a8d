"""Sets of the static stage and arithmetic of the dynamic stage, as pure functions."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.config import DynamicConfig, StaticConfig
from specprune_ros.pruning.dynamic import (
    CONFIDENCE,
    highest_scored,
    kept_count,
    rank_weights,
    updated_scores,
)
from specprune_ros.pruning.sets import changed_patches, split_evenly, top_k, top_k_per_camera

few_values = st.lists(st.integers(0, 5), min_size=1, max_size=40)


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def chosen(mask: torch.Tensor) -> list[int]:
    return torch.nonzero(mask).flatten().tolist()


# Top-k -----------------------------------------------------------------------------------


@given(values=few_values, k=st.integers(-1, 50))
def test_top_k_takes_the_largest_and_the_lower_index_among_equals(values, k):
    """Invariant 6: the tie-break is by position."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert chosen(top_k(tensor(values), k)) == sorted(order[: max(k, 0)])


def test_top_k_never_takes_what_has_no_score():
    """Invariant 7: -inf marks a dead patch; a NaN uses up no place."""
    scores = tensor([math.nan, 1.0, -math.inf, 3.0, 2.0])
    assert chosen(top_k(scores, 2)) == [3, 4]
    assert chosen(top_k(scores, 5)) == [1, 3, 4]


@given(values=st.lists(st.integers(0, 9), min_size=8, max_size=8), other=st.integers(0, 9),
       k=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_cameras_are_ranked_on_their_own(values, other, k):
    """Invariant 8: the scores of one camera never change the choice in another."""
    scores = tensor(values).reshape(2, 4)
    before = top_k_per_camera(scores, list(k))
    assert before.sum(1).tolist() == list(k)
    changed = scores.clone()
    changed[1, 2] += 100 * other
    assert torch.equal(top_k_per_camera(changed, list(k))[0], before[0])


def test_budgets_and_scores_of_several_layers_at_once():
    """One budget for all layers, one for each, and several for the same scores."""
    scores = torch.rand(3, 2, 8, generator=torch.Generator().manual_seed(0))
    scores[1, 0, 3], scores[1, 1, 2] = torch.nan, -torch.inf
    each = [[1, 2], [8, 8], [0, 3]]
    one_by_one = [top_k_per_camera(layer, k) for layer, k in zip(scores, each)]
    assert torch.equal(top_k_per_camera(scores, each), torch.stack(one_by_one))
    assert one_by_one[1].sum(1).tolist() == [7, 7]
    same = torch.stack([top_k_per_camera(layer, (2, 5)) for layer in scores])
    assert torch.equal(top_k_per_camera(scores, (2, 5)), same)
    several = torch.stack([top_k_per_camera(scores[0], k) for k in each])
    assert torch.equal(top_k_per_camera(scores[0], each), several)


@given(k=st.integers(0, 100), parts=st.integers(1, 5))
def test_a_budget_is_split_without_loss(k, parts):
    """Invariant 7: the union over the global layers may reach K, and never more."""
    shares = split_evenly(k, parts)
    assert sum(shares) == k and max(shares) - min(shares) <= 1


# V_dynamic -------------------------------------------------------------------------------


@given(values=st.lists(st.integers(0, 10), min_size=1, max_size=30), k=st.integers(0, 40),
       tau=st.integers(0, 11))
def test_rules_of_v_dynamic(values, k, tau):
    """Invariant 9: the paper's K_D is a maximum, the released code's a minimum; both are exact."""
    similarity, n = tensor(values), len(values)
    below = [i for i in range(n) if values[i] < tau]
    paper = chosen(changed_patches(similarity, tau, k, "lowest"))
    assert paper == sorted(sorted(below, key=lambda i: (values[i], i))[:k])
    code = chosen(changed_patches(similarity, tau, k, "static_cap"))
    assert len(code) == max(min(k, n), len(below))
    assert set(below) <= set(code)


@pytest.mark.parametrize("k", [0, 20, 46, 256, 300])
def test_v_dynamic_of_identical_and_of_all_different_frames(k):
    """Invariant 9: identical frames give nothing (paper) or exactly the floor (code), the lowest
    similarities by position; all-different frames give K_D (paper) or all (code)."""
    same, different = torch.ones(256), torch.zeros(256)
    assert chosen(changed_patches(same, 0.986, k, "lowest")) == []
    assert chosen(changed_patches(same, 0.986, k, "static_cap")) == list(
        range(256 - min(k, 256), 256)
    )
    assert chosen(changed_patches(different, 0.986, k, "lowest")) == list(range(min(k, 256)))
    assert chosen(changed_patches(different, 0.986, k, "static_cap")) == list(range(256))


# Rank weights ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 1024), seed=st.integers(0, 10**6))
def test_rank_weights_sum_to_one_and_fall_strictly(n, seed):
    """Invariant 13: the scale-free slope neither underflows nor ties up to 1024 tokens."""
    attention = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    weights = rank_weights(attention, None)
    assert weights.dtype == torch.float64
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    ordered = weights[torch.sort(attention, descending=True, stable=True).indices]
    assert (ordered[1:] < ordered[:-1]).all()
    assert ordered[-1] > 0
    # Strict also in float32, in which the released code ties from rank 89 on.
    assert (ordered.float()[1:] < ordered.float()[:-1]).all()


def test_rank_weights_are_the_papers_formula():
    """Invariant 13: sigma(-k rank) / sum; k = 1 is the released code's."""
    weights = rank_weights(tensor([0.1, 0.7, 0.2]), 1.0)
    sigma = [1 / (1 + math.exp(rank)) for rank in (2, 0, 1)]
    assert weights.tolist() == pytest.approx([s / sum(sigma) for s in sigma], rel=1e-12)
    assert rank_weights(tensor([]), None).shape == (0,)
    with pytest.raises(ConfigurationError, match="rank_slope"):
        DynamicConfig(rank_slope=0.0)


# EMA and confidence ------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 30), layers=st.integers(1, 8), beta=st.floats(0.01, 1.0),
       seed=st.integers(0, 10**6))
def test_scores_follow_the_closed_form(n, layers, beta, seed):
    """Invariant 13: S^L = beta * sum_l (1 - beta)^(L - l) w_l c_l, from S^0 = 0."""
    generator = torch.Generator().manual_seed(seed)
    config = DynamicConfig(beta=beta)
    scores = torch.zeros(n, dtype=torch.float64)
    expected = torch.zeros(n, dtype=torch.float64)
    for layer in range(layers):
        rows = torch.rand(3, n, generator=generator)
        confidence = torch.rand((), generator=generator, dtype=torch.float64)
        scores = updated_scores(scores, rows, confidence, config)
        weights = rank_weights(rows.mean(0), None)
        expected += beta * (1 - beta) ** (layers - 1 - layer) * weights * confidence
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", CONFIDENCE)
@pytest.mark.parametrize("n", [0, 1, 2, 17, 512])
def test_confidence_is_positive_and_finite(kind, n):
    """Invariant 13: for one-hot, uniform and empty attention, and for rows without any weight."""
    one_hot = torch.zeros(4, n)
    one_hot[:, :1] = 1.0
    for rows in (one_hot, torch.full((4, n), 1 / max(n, 1)), torch.zeros(4, n),
                 torch.full((4, n), 1e-38)):
        value = CONFIDENCE[kind](rows)
        assert torch.isfinite(value) and value >= 0
    if n > 1:
        assert CONFIDENCE[kind](one_hot) > 0


def test_confidence_by_its_definitions():
    """Invariant 13: 1 for uniform attention whatever n is; mean over std; 1 / nats."""
    uniform = torch.full((2, 8), 0.02)  # rows over visual tokens need not sum to 1
    assert float(CONFIDENCE["entropy"](uniform)) == pytest.approx(1.0)
    assert float(CONFIDENCE["entropy_nats"](uniform)) == pytest.approx(1 / math.log(8))
    rows = tensor([[0.1, 0.3], [0.2, 0.4]])
    assert float(CONFIDENCE["mean_std"](rows)) == pytest.approx(0.25 / math.sqrt(0.0125), rel=1e-5)
    sharp, flat = tensor([[0.9, 0.1]]), tensor([[0.6, 0.4]])
    for kind in ("entropy", "entropy_nats"):
        assert CONFIDENCE[kind](sharp) > CONFIDENCE[kind](flat)


@given(scale=st.floats(0.1, 10))
def test_confidence_changes_no_order_within_a_layer(scale):
    """Invariant 13: it is one scalar per layer."""
    rows = torch.rand(2, 9, generator=torch.Generator().manual_seed(1))
    zero = torch.zeros(9, dtype=torch.float64)
    one = updated_scores(zero, rows, torch.tensor(1.0), DynamicConfig())
    other = updated_scores(zero, rows, torch.tensor(scale), DynamicConfig())
    assert torch.equal(one.argsort(), other.argsort())


# How many stay -----------------------------------------------------------------------------


@given(visual=st.integers(0, 600), others=st.integers(1, 200), keep=st.floats(0.05, 1.0),
       floor=st.integers(0, 200), total=st.booleans())
def test_floor_is_respected_and_final(visual, others, keep, floor, total):
    """Invariant 14: never below the floor, never more than there are, no change at the floor."""
    config = DynamicConfig(keep=keep, floor=floor, ratio_of="total" if total else "visual")
    kept = visual
    for _ in range(200):
        after = kept_count(kept, kept + others, config)
        assert min(kept, floor) <= after <= kept
        if kept <= floor:
            assert after == kept
        if not total:
            assert after == min(kept, max(math.floor(keep * kept + 1e-9), floor))
        kept = after
    if total and keep < 0.9:
        assert kept <= floor  # a share of the whole sequence always reaches it


def test_release_takes_its_share_of_the_whole_sequence():
    """Invariant 14: 239 rows, 150 of them visual, become 215, 193, 173, 155."""
    config = DynamicConfig(ratio_of="total", floor=59)
    others, visual, lengths = 89, 150, []
    for _ in range(6):
        visual = kept_count(visual, visual + others, config)
        lengths.append(visual + others)
    assert lengths == [215, 193, 173, 155, 148, 148]


def test_share_of_visual_tokens_only():
    """Invariant 14: the ratio of the default counts visual tokens, whatever the prompt length."""
    config = DynamicConfig(floor=60)
    assert [kept_count(150, total, config) for total in (200, 250, 400)] == [135, 135, 135]
    assert kept_count(10, 99, DynamicConfig(floor=0, keep=0.9)) == 9  # exact, 0.9 * 10 is not


@given(scores=few_values, members=st.lists(st.booleans(), min_size=40, max_size=40),
       keep=st.integers(0, 40))
def test_ties_go_to_the_global_set_then_to_the_lower_position(scores, members, keep):
    """Invariant 6: by (score, membership of V_global, position)."""
    n = len(scores)
    order = sorted(range(n), key=lambda i: (-scores[i], not members[i], i))
    found = highest_scored(tensor(scores).double(), torch.tensor(members[:n]), keep)
    assert found.tolist() == sorted(order[:keep])


# Settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DynamicConfig(update_layers=(14,), prune_layers=(10, 15)), "before there is any"),
        (lambda: DynamicConfig(update_layers=(), prune_layers=(10,)), "before there is any"),
        (lambda: DynamicConfig(keep=0.0), "keep"),
        (lambda: DynamicConfig(floor=-1), "floor"),
        (lambda: DynamicConfig(prune_layers=(10, 40)), "prune_layers"),
        (lambda: DynamicConfig(update_layers=(9, 5)), "update_layers"),
        (lambda: StaticConfig(global_layers=()), "use_global"),
        (lambda: StaticConfig(local_layers=(1, 0)), "local_layers"),
        (lambda: StaticConfig(carry=1.5), "carry"),
        (lambda: StaticConfig(interim_factor=-1), "interim_factor"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    """Invariant 14: among them a schedule that prunes before it has a score."""
    with pytest.raises(ConfigurationError, match=message):
        make()
