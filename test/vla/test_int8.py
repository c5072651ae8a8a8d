"""Decoder matrices of a byte per weight."""
from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Observation, load_policy
from specprune_ros.vla.openvla_oft.int8 import Int8Layer, Int8Matrix

CAMERAS = ("primary", "wrist")


def observation(number: int) -> Observation:
    random = np.random.default_rng(7)
    images = {name: random.integers(0, 256, (224, 224, 3), dtype=np.uint8) for name in CAMERAS}
    images["primary"][:40, : 20 * (number + 1)] = 90
    return Observation(images, "pick up the cup", np.zeros(8), 0.4 * number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_rounded_factors(dtype):
    """Exactly: int8 times int8 adds up in int32; only the scales are floating-point."""
    generator = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(n, 256, generator=generator).to(dtype) for n in (64, 33))
    found = Int8Matrix(weight)(rows)
    assert found.dtype is dtype

    def rounded(values):
        scale = values.abs().amax(1, keepdim=True).double() / 127
        whole = (values.double() / scale).round()
        assert whole.abs().max() == 127
        return whole * scale

    expected = rounded(rows) @ rounded(weight).T
    tolerance = 2e-5 if dtype is torch.float32 else 2e-2
    assert (found.double() - expected).abs().max() < tolerance * expected.abs().max()
    exact = rows.double() @ weight.double().T
    assert (expected - exact).norm() < 0.02 * exact.norm()


def test_rows_of_zeros_stay_zero():
    matrix = Int8Matrix(torch.eye(32, 64))
    assert not matrix(torch.zeros(20, 64)).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("runtime", ["eager", "static"])
def test_actions_stay_near_those_of_full_weights(tiny_dir, dtype, runtime):
    full, small = (load_policy(tiny_dir, dtype=dtype, pruning="off", weights=weights,
                               runtime=runtime) for weights in ("full", "int8"))
    for number in range(2):
        a, b = (p.predict(observation(number)).normalized_actions for p in (full, small))
        # Random weights; rounding them to bfloat16 alone changes actions by 0.01 on average.
        assert 0 < np.abs(a - b).mean() < 0.06, np.abs(a - b).mean()


def test_the_decoder_takes_a_byte_per_weight(tiny_dir):
    full, small = (load_policy(tiny_dir, weights=weights).model for weights in ("full", "int8"))
    matrices = sum(m.weight.numel() for m in full.decoder.layers.modules()
                   if isinstance(m, torch.nn.Linear))
    outputs = sum(m.weight.shape[0] for m in full.decoder.layers.modules()
                  if isinstance(m, torch.nn.Linear))
    assert full.weight_bytes - small.weight_bytes == 3 * matrices - 4 * outputs
    # Nothing of the matrices that were rounded is left.
    linear = [m for m in small.decoder.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert linear and all(m.weight.is_meta for m in linear)


def test_matrices_are_given_up_layer_by_layer(tiny_dir, monkeypatch):
    """Rounding a model that fills the memory must not need half as much again."""
    model = load_policy(tiny_dir).model
    fused = [weakref.ref(layer._qkv) for layer in model.decoder.layer_math()]
    held, rounded = [], Int8Layer.of

    def noted(layer):
        held.append(sum(matrix() is not None for matrix in fused))
        return rounded(layer)

    monkeypatch.setattr(Int8Layer, "of", noted)
    weights = [weakref.ref(layer.self_attn.q_proj.weight) for layer in model.decoder.layers]
    model.decoder.to_int8()
    assert held == [0] * len(fused) and not any(weight() for weight in weights)


def test_what_int8_cannot_do_is_said(tiny_dir):
    with pytest.raises(ConfigurationError, match="weights 'int4' is not one of full, int8"):
        load_policy(tiny_dir, weights="int4")
    model = load_policy(tiny_dir, weights="int8").model
    with pytest.raises(ConfigurationError, match="neither be moved nor converted"):
        model.to(torch.bfloat16)


@pytest.mark.gpu
def test_a_product_on_the_device_is_that_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(n, 256, generator=generator) for n in (64, 33))
    on_device = Int8Matrix(weight.cuda())(rows.cuda())
    torch.testing.assert_close(on_device.cpu(), Int8Matrix(weight)(rows), atol=1e-4, rtol=1e-4)
