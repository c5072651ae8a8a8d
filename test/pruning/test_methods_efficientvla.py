"""EfficientVLA. Invariants of its definition: 1 keep-all, 2 sizes, 4 removed weights, 5 importance.

(3, min-max normalisation: there is none, as it would not change a top-k.)
"""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_harness import (
    Recorder,
    attention_of,
    bit_equal,
    decoder,
    embeddings,
    episode,
    layout,
    recorded,
    run,
)

from specprune_ros.errors import ConfigurationError, MethodUnavailable
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.methods.efficientvla import (
    EfficientVLA,
    EfficientVLAConfig,
    LayerCalibration,
    LayerImportance,
    calibrate_layer_importance,
    least_important,
    select_tokens,
)

LAYOUT = layout()
V = LAYOUT.visual_tokens
TOKENS_ONLY = EfficientVLAConfig(layers_kept=32, keep=0.5)


def states_of(recorder: Recorder, depth: int = 8) -> list[torch.Tensor]:
    return [recorder.entering[0], *(recorder.hidden[l] for l in range(depth))]


# Token part ---------------------------------------------------------------------------------


@pytest.mark.parametrize("depth, boundary", [(8, 1), (32, 2)])
def test_keeps_what_the_definition_says(depth, boundary):
    got, recorder = recorded(EfficientVLA(TOKENS_ONLY), LAYOUT, depth=depth)
    assert got.counts == [V] * boundary + [16] * (depth - boundary)
    rows = attention_of(recorder, boundary - 1, LAYOUT.visual)
    relevance = rows[:, list(LAYOUT.instruction)].sum(1)
    order = list(np.argsort(-relevance, kind="stable"))
    key, task, rest = order[:4], order[4:10], sorted(order[10:])
    x = recorder.hidden[boundary - 1][0, 1 : 1 + V].double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    alike = (x[rest] @ x[key].T).max(1)
    diverse = [rest[i] for i in np.argsort(alike, kind="stable")[:6]]
    wanted = {int(v) + 1 for v in (*key, *task, *diverse)}
    assert len(wanted) == 16
    assert all(got.visual(l) == wanted for l in range(boundary, depth))


def test_text_to_vision_uses_the_other_direction():
    other = replace(TOKENS_ONLY, direction="text_to_vision", alpha=1.0)
    got, recorder = recorded(EfficientVLA(other), LAYOUT)
    scores = attention_of(recorder, 0, LAYOUT.instruction).mean(0)[1 : 1 + V]
    wanted = {int(v) + 1 for v in np.argsort(-scores, kind="stable")[:16]}
    assert got.visual(1) == wanted
    assert wanted != run(EfficientVLA(replace(TOKENS_ONLY, alpha=1.0)), LAYOUT).visual(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 8), st.floats(0, 1))
def test_sets_are_disjoint_and_sum_up(seed, count, key_tokens, alpha):
    generator = torch.Generator().manual_seed(seed)
    sets = select_tokens(
        torch.rand(20, generator=generator), torch.randn(20, 6, generator=generator),
        count, key_tokens, alpha,
    )
    sizes = [len(s) for s in sets]
    together = torch.cat(sets).tolist()
    assert sum(sizes) == count == len(set(together))
    assert sizes[0] == min(key_tokens, count)
    assert sizes[1] == int(alpha * (count - sizes[0]))


def test_constant_relevance_takes_the_lower_indices():
    features = torch.ones(10, 4)
    features[0, 0] = -1.0  # all others are equally far from V_key
    key, task, diverse = select_tokens(torch.ones(10), features, 5, 1, 0.5)
    assert (key.tolist(), task.tolist(), diverse.tolist()) == ([0], [1, 2], [3, 4])
    relevance = torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0])
    assert select_tokens(relevance, features, 5, 1, 0.5)[2].tolist() == [3, 4]


def test_keep_all_and_all_layers_is_dense_bit_for_bit():
    x = embeddings(LAYOUT)
    got = run(EfficientVLA(TOKENS_ONLY).with_keep(1.0), LAYOUT, x)
    assert bit_equal(got, run(DensePruner(), LAYOUT, x))
    assert not got.result.dense_refresh


# Layer part ---------------------------------------------------------------------------------


def test_importance_by_definition():
    x = [torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    x.insert(1, x[0].clone())  # the first layer changes nothing
    importance = calibrate_layer_importance([x, [2 * s for s in x]])
    a, b = (x[i][0].double().numpy() for i in (1, 2))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert importance[0] == pytest.approx(0.0, abs=1e-6)
    assert importance[1] == pytest.approx(1 - cosine.mean(), abs=1e-6)
    assert ((importance >= -1e-6) & (importance <= 2)).all()


def test_calibration_while_running_equals_the_pure_function():
    runs, samples = [], []
    history = None
    for number in range(2):
        got, recorder = recorded(
            LayerCalibration(), LAYOUT, embeddings(LAYOUT, number), history=history
        )
        history = got.result.history
        runs.append(got)
        samples.append(states_of(recorder))
    assert history.queries == 2
    assert torch.allclose(history.mean, calibrate_layer_importance(samples), atol=1e-6)
    assert bit_equal(runs[0], run(DensePruner(), LAYOUT, embeddings(LAYOUT, 0)))


def test_calibration_needs_a_query():
    with pytest.raises(ConfigurationError, match="one query"):
        calibrate_layer_importance([])


def test_least_important_layers_spare_the_protected():
    importance = torch.tensor([0.0, 0.3, 0.1, 0.1, 0.2, 0.0])
    assert least_important(importance, 2, {0, 5}) == (2, 3)
    assert least_important(importance, 1, {0, 5}) == (2,)  # the tie goes to the lower index
    with pytest.raises(MethodUnavailable, match="layers_kept"):
        least_important(importance, 5, {0, 5})


def test_first_query_is_dense_and_calibrates_the_later_ones():
    first, second, third = episode(EfficientVLA(), LAYOUT, 3)
    assert bit_equal(first, run(DensePruner(), LAYOUT, embeddings(LAYOUT, 0)))
    assert first.result.dense_refresh and not second.result.dense_refresh
    assert first.output.layer_keys.count(0) == 0
    wanted = least_important(first.result.history.mean, 1, {0, 7})
    for later in (second, third):
        skipped = tuple(l for l, keys in enumerate(later.output.layer_keys) if keys == 0)
        assert skipped == wanted
        assert later.result.history is first.result.history


def test_list_of_a_calibration_counts_from_the_first_query():
    importance = torch.tensor([0.9, 0.5, 0.05, 0.4, 0.3, 0.2, 0.1, 0.8])
    pruner = EfficientVLA(EfficientVLAConfig(layers_kept=22)).calibrated(importance)
    assert pruner.config.removed_layers == (2, 5, 6)  # 10 of 32 are 2.5 of 8
    got = run(pruner, LAYOUT)
    assert [l for l, keys in enumerate(got.output.layer_keys) if keys == 0] == [2, 5, 6]
    assert got.result.details["layers_removed"] == 3


def test_removed_layer_is_never_read():
    pruner = EfficientVLA(EfficientVLAConfig(removed_layers=(1, 3)))
    plain = run(pruner, LAYOUT)
    model = decoder(8)
    saved = {l: model.layers[l].state_dict() for l in (1, 3)}
    saved = {l: {k: v.clone() for k, v in s.items()} for l, s in saved.items()}
    try:
        with torch.no_grad():
            for l in saved:
                for parameter in model.layers[l].parameters():
                    parameter.fill_(float("nan"))
        assert bit_equal(plain, run(pruner, LAYOUT))
        assert run(DensePruner(), LAYOUT).output.states.isnan().all()
    finally:
        for l, state in saved.items():
            model.layers[l].load_state_dict(state)


def test_rows_that_pass_by_a_removed_layer_are_the_kept_ones():
    """The layer right after the drop is removed: the drop still shows there."""
    got = run(EfficientVLA(EfficientVLAConfig(removed_layers=(1,), keep=0.5)), LAYOUT)
    assert got.counts == [32] + [16] * 7
    assert got.output.layer_keys[1] == 0


@pytest.mark.parametrize("layer", [0, 7, 8])
def test_layers_that_must_stay(layer):
    with pytest.raises(ConfigurationError, match=f"layer {layer}"):
        run(EfficientVLA(EfficientVLAConfig(removed_layers=(layer,))), LAYOUT)


def test_too_shallow_a_decoder_is_unavailable():
    pruner = EfficientVLA(EfficientVLAConfig(layers_kept=1))
    history = LayerImportance(torch.ones(8), 1)
    with pytest.raises(MethodUnavailable, match="layers_kept"):
        run(pruner, LAYOUT, history=history)


def test_no_instruction_is_unavailable():
    empty = layout(instruction=(9, 9))
    with pytest.raises(MethodUnavailable, match="instruction"):
        run(EfficientVLA(TOKENS_ONLY), empty)


@pytest.mark.parametrize("wrong", [{"alpha": 2.0}, {"layers_kept": 0}, {"layers_kept": 33},
                                   {"key_tokens": 0}, {"direction": "none"}])
def test_bad_settings(wrong):
    with pytest.raises(ConfigurationError, match="efficientvla"):
        EfficientVLAConfig(**wrong)
