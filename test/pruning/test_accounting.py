"""Cost of a query in closed form, against the sizes of the literature and against real modules."""
from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from specprune_ros.policy import Observation, Policy, load_policy
from specprune_ros.pruning.base import PruneSession
from specprune_ros.runtime.accounting import (
    Cost,
    DecoderShape,
    QueryShape,
    attention,
    linear,
    openvla_oft_7b,
    total,
)
from specprune_ros.runtime.counter import OTHER, OperationCounter
from specprune_ros.vla.openvla_oft.decoder import Decoder
from specprune_ros.vla.openvla_oft.tiny import Size, write_tiny

torch.set_num_threads(1)

S = 601  # tokens of the figures in docs/method.md, 89 of them not visual


@pytest.fixture(scope="module")
def llama() -> DecoderShape:
    return openvla_oft_7b().decoder


def share(shape: DecoderShape, rows: list[int]) -> float:
    return shape.flops(rows, rows) / shape.dense_flops(S)


# Invariant 19: the formula and its figures at 7B ------------------------------------------------


@given(rows=st.lists(st.integers(1, 700), min_size=32, max_size=32))
def test_closed_form_of_the_decoder(rows):
    """Invariant 19: sum over layers of 8 L D^2 + 6 L D I + 4 L^2 D, D = 4096, I = 11008."""
    d, i = 4096, 11008
    expected = sum(8 * n * d * d + 6 * n * d * i + 4 * n * n * d for n in rows)
    assert openvla_oft_7b().decoder.flops(rows, rows) == expected


def test_dense_query_of_601_tokens(llama):
    """Invariant 19: 7.97 TFLOP."""
    assert llama.dense_flops(S) / 1e12 == pytest.approx(7.97, rel=0.01)


def test_315_tokens_gone_after_layer_1(llama):
    """Invariant 19: 50.3 %."""
    assert share(llama, [S] * 2 + [S - 315] * 30) == pytest.approx(0.503, rel=0.01)


def test_ten_percent_more_at_four_layers(llama):
    """Invariant 19: with 10 % of the length at 5, 10, 15 and 20 as well, 40.4 %."""
    rows, length = [S, S], S - 315
    for layer in range(2, 32):
        rows.append(length)
        if layer in (5, 10, 15, 20):
            length = int(0.9 * length)
    assert share(llama, rows) == pytest.approx(0.404, rel=0.01)


@pytest.mark.parametrize("interim", [150, 190])
def test_release_in_coarse_mode(llama, interim):
    """Invariant 19: 150 visual tokens and its own schedule, 35 %. Few more pass layer 1."""
    rows, length = [S, 89 + interim], 89 + 150
    for layer in range(2, 32):
        rows.append(length)
        if layer in (10, 15, 20, 25):
            length = max(int(0.9 * length), 89 + 59)
    assert rows[11] == 215 and rows[16] == 193 and rows[21] == 173 and rows[26] == 155
    assert share(llama, rows) == pytest.approx(0.35, rel=0.01)


def test_parts_of_a_7b_query():
    """Towers, projector, head and weights of a query of 605 tokens, in bfloat16."""
    shape = openvla_oft_7b()
    costs = shape.dense_cost(605, cameras=2, proprio=True, action_tokens=56)
    for part, gigaflops, megabytes in (
        ("dino", 315, 580), ("siglip", 421, 790), ("projector", 73.1, 143),
        ("decoder", 32 * 250.9, 32 * 404.8), ("action_head", 2.4, 302),
    ):
        assert costs[part].flops / 1e9 == pytest.approx(gigaflops, rel=0.01), part
        assert costs[part].weights * 2 / 1e6 == pytest.approx(megabytes, rel=0.01), part
    assert total(list(costs.values())).flops / 1e12 == pytest.approx(8.84, rel=0.005)
    assert "proprio_projector" not in shape.dense_cost(604, 2, False, 56)


def test_intensity_falls_with_the_rows(llama):
    """One token costs about 1 FLOP per byte of bfloat16 weights."""
    few, many = (llama.layer_cost(n, n).intensity(2) for n in (60, 600))
    assert few == pytest.approx(60, rel=0.1)
    assert few < 0.2 * many


def test_costs_add_up():
    assert linear(3, 5, 7) == Cost(2 * 3 * 5 * 7, 7 * 5 + 7, 3 * (5 + 7))
    assert attention(3, 4, 6, 2, batch=2) == Cost(2 * 4 * 3 * 4 * 6, 0, 2 * (2 * 3 * 6 + 2 * 4 * 2))
    both = Cost(1, 2, 3) + Cost(10, 20, 30)
    assert both == Cost(11, 22, 33) and both.bytes(4) == 220
    assert both.intensity(2) == 0.1


def test_skipped_layers_cost_nothing(llama):
    assert llama.flops([100] * 32, [0] * 31 + [100]) == llama.flops([100], [100])


# Against hooks on the real modules ------------------------------------------------------------


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny(directory, Size(hidden=32, mlp=48, layers=8, heads=4, vit_width=16, vit_depth=3,
                               vit_heads=2, head_width=24))
    return load_policy(directory, center_crop=False, jpeg_roundtrip=False)


def observation(query: int, cameras: int, proprio: bool) -> Observation:
    random = np.random.default_rng(query)
    images = {
        name: random.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        for name in ("primary", "wrist", "wrist_2")[:cameras]
    }
    values = np.array([0.5, 0.0, 0.2, 3.1, 0.0, 0.0, 0.02, -0.02]) if proprio else None
    return Observation(images, "push the red cube", values, stamp=0.4 * query)


@pytest.mark.parametrize("method", ["off", "specprune", "paper_v1", "release"])
@pytest.mark.parametrize(("cameras", "proprio"), [(1, False), (2, True), (3, True)])
def test_closed_form_equals_the_counter(policy, method, cameras, proprio):
    """Invariant 19: every part of the network, FLOPs, weights and activations, to the last one."""
    policy.set_pruning(method)
    episode = policy.make_episode()
    for query in range(2):
        with OperationCounter(policy.model) as counter:
            chunk = policy.predict(observation(query, cameras, proprio), episode)
        rows = [len(positions) for positions in chunk.report.kept_positions]
        expected = dict(policy.query_shape.cost(rows, rows, cameras, proprio, 56))
        counted = {name: cost for name, cost in counter.parts.items() if name != OTHER}
        assert counted == expected
        assert counter.network == total(list(expected.values()))
        assert chunk.report.flops == counted["decoder"].flops
        if method == "off":
            assert chunk.report.dense_flops == chunk.report.flops
            assert OTHER not in counter.parts or query == 0  # the table of rotary angles, once
        elif query:
            assert chunk.report.flops < chunk.report.dense_flops
            # What scoring costs is counted apart: little, but not nothing.
            assert 0 < counter.parts[OTHER].flops < chunk.report.dense_flops


def test_the_query_shape_is_read_off_the_model(policy):
    shape = QueryShape.of(policy.model)
    assert shape == policy.query_shape
    assert shape.proprio.widths == (8, 32, 32)
    assert shape.head.widths == (7 * 32, 24, 24, 24, 7)
    assert shape.dino.prefix == 5 and shape.siglip.prefix == 0
    assert shape.dino.blocks == 2  # the last block is not run


class Fewer(PruneSession):
    """Fewer rows, fewer keys than rows, and a skipped layer."""

    def __init__(self, rows: int, keys: int) -> None:
        self.rows, self.keys = rows, keys

    def skips(self, layer):
        return layer == 1

    def before_layer(self, layer, state):
        return state.select(torch.arange(self.rows)) if layer == 2 else state

    def keys_values(self, layer, state, key, value):
        if layer < 3:
            return key, value, state.positions
        return key[:, :, : self.keys], value[:, :, : self.keys], state.positions[: self.keys]


@pytest.mark.parametrize(("heads", "key_heads", "keys"), list(product([4], [4, 2, 1], [9, 30])))
def test_rows_keys_and_grouped_heads(heads, key_heads, keys):
    """Invariant 19 for what no present checkpoint has: grouped keys, keys other than rows."""
    config = LlamaConfig(vocab_size=8, hidden_size=32, intermediate_size=40, num_hidden_layers=4,
                         num_attention_heads=heads, num_key_value_heads=key_heads)
    model = torch.nn.ModuleDict({"decoder": Decoder(config).eval()})
    model["decoder"].fuse()  # the closed form counts fused products
    shape = DecoderShape(32, 40, 32, 8 * key_heads, 4)
    with torch.inference_mode(), OperationCounter(model) as counter:
        output = model["decoder"](torch.randn(1, 50, 32), torch.arange(5), Fewer(30, keys))
    rows = [len(positions) for positions in output.layer_positions]
    assert rows == [50, 50, 30, 30] and list(output.layer_keys) == [50, 0, 30, keys]
    assert counter.parts["decoder"] == shape.cost(rows, output.layer_keys)


def test_the_counter_leaves_no_trace(policy):
    """Hooks are gone afterwards, also after an error, and outputs are the same bits."""
    policy.set_pruning("off")
    plain = policy.predict(observation(0, 2, True), policy.make_episode())
    with OperationCounter(policy.model):
        counted = policy.predict(observation(0, 2, True), policy.make_episode())
    assert np.array_equal(plain.actions, counted.actions)
    with pytest.raises(ZeroDivisionError), OperationCounter(policy.model):
        raise ZeroDivisionError
    for module in policy.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
