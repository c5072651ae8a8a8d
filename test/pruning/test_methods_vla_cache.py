"""VLA-Cache. Invariants of its definition: 1 nothing reused, 2 fixed point, 3 inexactness,
4 nesting, 5 references, resets and ages.
"""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_harness import (
    attention_of,
    bit_equal,
    decoder,
    embeddings,
    frames,
    layout,
    recorded,
    repainted,
    run,
)

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.methods.vla_cache import (
    VLACache,
    VLACacheConfig,
    interleave,
    release,
    reuse_list,
    reuse_shares,
)

LAYOUT = layout(patches=64)
V = LAYOUT.visual_tokens
FRAME = frames(LAYOUT)
# Shares given, so that tests do not hang on the entropies of random weights.
SHARES = VLACacheConfig(shares=(0.3, 0.5, 0.5, 0.8))


def first(pruner, x=None, frame=FRAME, depth=8, of=LAYOUT):
    return run(pruner, of, x, depth, frame=frame)


def then(pruner, before, x=None, frame=FRAME, depth=8, of=LAYOUT):
    return run(pruner, of, x, depth, frame=frame, history=before.result.history, query_number=1)


def test_first_query_is_dense_and_caches_everything():
    got, recorder = recorded(VLACache(), LAYOUT, frame=FRAME)
    assert bit_equal(got, run(DensePruner(), LAYOUT))
    assert got.result.dense_refresh
    history = got.result.history
    for layer in range(8):
        assert torch.equal(history.keys[layer], recorder.probes[layer].key)
    relevance = attention_of(recorder, 3, LAYOUT.instruction).mean(0)[1 : 1 + V]
    assert np.allclose(history.relevance.flatten().numpy(), relevance, atol=1e-6)
    assert (history.age == 0).all()


def test_entropy_of_every_layer_sets_the_shares():
    got, recorder = recorded(VLACache(), LAYOUT)
    entropies = []
    for layer in range(8):
        rows = attention_of(recorder, layer, range(LAYOUT.length))
        entropies.append(float(-(rows * np.log(rows)).sum(1).mean()))
    assert got.result.history.shares == pytest.approx(reuse_shares(entropies, 0.55), abs=1e-3)


# What is reused -----------------------------------------------------------------------------


@pytest.mark.parametrize("depth, boundaries", [(8, (1, 2, 3)), (32, (2, 6, 9, 11))])
def test_rows_are_recomputed_by_schedule_and_keys_never_dropped(depth, boundaries):
    pruner = VLACache()
    before = first(pruner, depth=depth)
    now = then(pruner, before, depth=depth)
    own, _ = reuse_list(
        torch.ones(2, 64), before.result.history.relevance, torch.zeros(2, 64, dtype=bool),
        pruner.config,
    )
    shares, present = before.result.history.shares, 0
    wanted = [V] * depth
    for boundary in boundaries:
        present = max(present, int(shares[boundary] * len(own)))
        wanted[boundary:] = [V - present] * (depth - boundary)
        assert now.visual(boundary) == set(LAYOUT.visual) - {p + 1 for p in own[:present]}
    assert present > 0
    assert now.counts == wanted
    assert set(now.output.layer_keys) == {LAYOUT.length}
    others = set(range(LAYOUT.length)) - set(LAYOUT.visual)
    for positions in now.output.layer_positions:
        assert others <= set(positions.tolist())


def test_sets_only_grow():
    now = then(VLACache(SHARES), first(VLACache(SHARES)), depth=8)
    for above, below in zip(range(7), range(1, 8)):
        assert now.visual(below) <= now.visual(above)


def test_moved_and_relevant_patches_are_recomputed():
    pruner = VLACache(replace(SHARES, shares=(1.0,) * 4))
    before = first(pruner)
    moved = [0, 1, 9, 30]
    now = then(pruner, before, frame=repainted(FRAME, 1, moved))
    relevance = before.result.history.relevance
    for camera in range(2):
        start = LAYOUT.camera(camera).start
        computed = {p - start for p in now.visual(1) & set(LAYOUT.camera(camera))}
        order = np.argsort(-relevance[camera].numpy(), kind="stable")
        relevant = set(order[:25].tolist())  # 100 of 256
        changed = set(moved) if camera == 1 else set()
        still = [p for p in range(64) if p not in changed][:38]  # 150 of 256, all equally alike
        assert computed == set(range(64)) - (set(still) - relevant)


def test_black_patches_count_as_changed():
    """The cosine of nothing with nothing says nothing."""
    black = torch.zeros_like(FRAME)
    pruner = VLACache(replace(SHARES, shares=(1.0,) * 4))
    assert then(pruner, first(pruner, frame=black), frame=black).counts == [V] * 8


@pytest.mark.parametrize("order, own", [("raster", [1, 3, 4, 9]), ("similarity", [4, 9, 1, 3])])
def test_order_of_reuse(order, own):
    similarity = torch.tensor([[0.0, 0.997, 0.1, 0.996, 1.0, 0.2], [0, 0, 0, 1.0, 0.5, 0.6]])
    config = VLACacheConfig(order=order, relevant=0, static_max=256)
    got, rest = reuse_list(
        similarity, torch.zeros(2, 6), torch.zeros(2, 6, dtype=torch.bool), config
    )
    assert got == own
    assert rest == [5, 11, 2, 10, 0, 6, 7, 8]


def test_interleave():
    assert interleave([[1, 2, 3], [7], [8, 9]]) == [1, 7, 8, 2, 9, 3]
    assert interleave([]) == []


@given(st.lists(st.floats(0.1, 6.0), min_size=2, max_size=32), st.floats(0, 1))
def test_shares_lie_between_0_and_1_and_grow_slowly(entropies, growth):
    shares = reuse_shares(entropies, growth)
    low, high = min(entropies), max(entropies)
    assert all(0.0 <= s <= 1.0 for s in shares)
    if high > low:
        raw = [1 - (e - low) / (high - low) for e in entropies]
        for before, share, aim in zip(shares, shares[1:], raw[1:]):
            wanted = before + growth * (aim - before) if aim > before else aim
            assert share == pytest.approx(wanted, abs=1e-9)
    else:
        assert set(shares) == {0.0}


# What comes out -----------------------------------------------------------------------------


def test_nothing_reused_is_dense_bit_for_bit():
    x = embeddings(LAYOUT, 1)
    for pruner in (VLACache().with_keep(1.0), VLACache(replace(SHARES, tau=1.1))):
        now, recorder = recorded(pruner, LAYOUT, x, history=first(pruner).result.history)
        assert bit_equal(now, run(DensePruner(), LAYOUT, x))
        assert not now.result.dense_refresh
        for layer in range(8):
            assert torch.equal(now.result.history.keys[layer], recorder.probes[layer].key)


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.8])
def test_same_input_twice_is_a_fixed_point(keep):
    pruner = VLACache().with_keep(keep)
    before = first(pruner)
    now = then(pruner, before)
    assert now.counts[-1] == round(keep * V)
    assert torch.allclose(now.output.states, before.output.states, atol=1e-5)


def test_a_layer_computes_active_rows_on_fresh_and_cached_keys_and_values():
    """Written out for each layer after the first reuse, with inputs that all changed."""
    pruner = VLACache().with_keep(0.3)
    before = first(pruner).result.history
    x = embeddings(LAYOUT, 5)
    now, recorder = recorded(pruner, LAYOUT, x, frame=FRAME, history=before)
    after = now.result.history
    reused = sorted(set(LAYOUT.visual) - now.visual(7))
    active = now.output.layer_positions[7]
    assert len(active) + len(reused) == LAYOUT.length
    for l in range(1, 8):
        layer, probe, rows = decoder(8).layers[l], recorder.probes[l], recorder.entering[l]
        with torch.inference_mode():
            value = layer.self_attn.v_proj(layer.input_layernorm(rows)).view(1, -1, 2, 8)
            values = before.values[l].clone()
            values[:, :, active] = value.transpose(1, 2)
            assert torch.allclose(after.values[l], values, atol=1e-6)
            assert torch.equal(after.keys[l][:, :, reused], before.keys[l][:, :, reused])
            assert not torch.allclose(after.keys[l][:, :, active], before.keys[l][:, :, active])
            weights = torch.softmax(
                probe.query[0] @ after.keys[l][0].repeat_interleave(2, 0).mT * probe.scaling, -1
            )
            mixed = (weights @ values[0].repeat_interleave(2, 0)).transpose(0, 1).flatten(1)
            rows = rows + layer.self_attn.o_proj(mixed)
            rows = rows + layer.mlp(layer.post_attention_layernorm(rows))
        assert torch.allclose(recorder.hidden[l], rows, atol=1e-5)


def test_other_proprio_makes_reuse_inexact():
    """Attention runs both ways: another proprio token changes keys of patches that stood still."""
    x = embeddings(LAYOUT)
    other = x.clone()
    other[0, LAYOUT.text_start - 1] += 1.0
    pruner = VLACache().with_keep(0.3)
    before = first(pruner, x)
    now, dense = then(pruner, before, other), run(DensePruner(), LAYOUT, other)
    _, recorder = recorded(DensePruner(), LAYOUT, other)
    patch = min(set(LAYOUT.visual) - now.visual(7))
    cached, fresh = now.result.history.keys, recorder.probes
    assert torch.equal(cached[0][:, :, patch], fresh[0].key[:, :, patch])
    for layer in range(1, 8):
        assert not torch.equal(cached[layer][:, :, patch], fresh[layer].key[:, :, patch])
    assert not torch.allclose(now.output.states, dense.output.states, atol=1e-4)


def test_cache_of_the_previous_query_is_left_alone():
    pruner = VLACache(SHARES)
    history = first(pruner).result.history
    saved = [t.clone() for t in (*history.keys, *history.values, history.age, history.reference)]
    run(pruner, LAYOUT, embeddings(LAYOUT, 3), frame=repainted(FRAME, 0, [5]), history=history)
    now = [*history.keys, *history.values, history.age, history.reference]
    assert all(torch.equal(a, b) for a, b in zip(saved, now))


# References, ages, resets -------------------------------------------------------------------


def drifting(steps: int) -> list[torch.Tensor]:
    """Patch (0, 3) changes a little with every frame: neighbours alike, ends not."""
    result = []
    for step in range(steps):
        frame = FRAME.clone()
        # Half of the patch from white towards black.
        frame[0, :14, 42:56] = 255
        frame[0, :7, 42:56] = 255 - 20 * step
        result.append(frame)
    return result


@pytest.mark.parametrize("reference, noticed", [("anchor", True), ("query", False)])
def test_slow_drift_is_noticed_from_the_anchor_only(reference, noticed):
    config = VLACacheConfig(
        shares=(1.0,) * 4, reference=reference, max_age=None, relevant=0, static_max=256
    )
    pruner, position = VLACache(config), LAYOUT.camera(0).start + 3
    history, computed = None, []
    for frame in drifting(8):
        now = run(pruner, LAYOUT, frame=frame, history=history)
        history = now.result.history
        computed.append(position in now.visual(7))
    assert computed[0]
    assert any(computed[1:]) is noticed


@pytest.mark.parametrize("max_age", [1, 2, 4])
def test_no_patch_gets_older_than_max_age(max_age):
    config = replace(SHARES, shares=(1.0,) * 4, max_age=max_age, relevant=0, static_max=256)
    history, counts = None, []
    for _ in range(2 * max_age + 3):
        now = run(VLACache(config), LAYOUT, frame=FRAME, history=history)
        history = now.result.history
        assert history.age.max() <= max_age
        counts.append(now.counts[7])
    cycle = [V, *[0] * max_age]
    assert counts == (cycle * 3)[: len(counts)]


def test_anchor_keeps_the_pixels_of_the_last_computation():
    pruner = VLACache(SHARES)
    before = first(pruner)
    frame = repainted(FRAME, 0, [7, 20])
    now = then(pruner, before, frame=frame)
    reference = now.result.history.reference
    reused = set(LAYOUT.visual) - now.visual(7)
    assert reused
    for position in LAYOUT.visual:
        camera, patch = divmod(position - 1, 64)
        box = (camera, slice(14 * (patch // 8), 14 * (patch // 8) + 14),
               slice(14 * (patch % 8), 14 * (patch % 8) + 14))
        source = FRAME if position in reused else frame
        assert torch.equal(reference[box], source[box])
    assert torch.equal(now.result.history.age.flatten() == 1,
                       torch.tensor([p in reused for p in LAYOUT.visual]))


def test_another_layout_or_no_history_starts_afresh():
    pruner = VLACache(SHARES)
    before = first(pruner)
    longer = layout(patches=64, prompt=21)
    now = run(pruner, longer, frame=FRAME, history=before.result.history)
    assert now.result.dense_refresh
    assert bit_equal(now, run(DensePruner(), longer))


def test_change_from_a_forced_to_the_natural_rule_starts_afresh():
    forced = first(VLACache().with_keep(0.5))  # keeps no entropies
    assert then(VLACache(), forced).result.dense_refresh


# Knob and presets ---------------------------------------------------------------------------


def test_forced_reuse_is_exact_and_takes_the_best_first():
    pruner = VLACache().with_keep(40 / V)
    before = first(pruner)
    moved = list(range(30))
    now = then(pruner, before, frame=repainted(FRAME, 0, moved))
    assert now.counts == [V] + [40] * 7
    # Everything that stands still and does not matter goes before anything that moved.
    order = np.argsort(-before.result.history.relevance[1].numpy(), kind="stable")
    still = set(range(64)) - set(order[:25].tolist())
    reused = {p - LAYOUT.camera(1).start for p in set(LAYOUT.camera(1)) - now.visual(7)}
    assert still <= reused


def test_release_rules():
    config = release().config
    assert (config.reference, config.max_age, config.order) == ("query", None, "raster")
    before = first(release())
    _, recorder = recorded(release(), LAYOUT, frame=FRAME)
    rows = range(1 + V, 1 + V + 34)
    relevance = attention_of(recorder, 3, rows).mean(0)[1 : 1 + V]
    assert np.allclose(before.result.history.relevance.flatten().numpy(), relevance, atol=1e-6)
    frame = repainted(FRAME, 0, [4])
    assert torch.equal(then(release(), before, frame=frame).result.history.reference, frame)


def test_release_reuses_one_patch_at_least():
    none = (0.0,) * 4
    one = VLACache(replace(release().config, shares=none))
    assert then(one, first(one)).counts == [V] + [V - 1] * 7
    fixed = VLACache(replace(SHARES, shares=none))
    assert then(fixed, first(fixed)).counts == [V] * 8


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 63), max_size=20, unique=True), st.integers(0, 1))
def test_only_patches_that_did_not_move_are_reused(moved, camera):
    pruner = VLACache(replace(SHARES, shares=(1.0,) * 4))
    now = then(pruner, BEFORE, frame=repainted(FRAME, camera, moved))
    reused = set(LAYOUT.visual) - now.visual(7)
    start = LAYOUT.camera(camera).start
    assert not reused & {start + p for p in moved}


BEFORE = first(VLACache(SHARES))


@pytest.mark.parametrize("wrong", [{"keep": 0.0}, {"shares": (0.5,)}, {"max_age": 0},
                                   {"reference": "x"}, {"order": "x"}, {"window": "x"},
                                   {"boundaries": (0, 1, 2, 3)}, {"growth": 2.0}])
def test_bad_settings(wrong):
    with pytest.raises(ConfigurationError, match="vla_cache"):
        VLACacheConfig(**wrong)
