"""Settings of every method are refused where they would silently run something else."""
from __future__ import annotations

from dataclasses import replace

import pytest

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.config import Budget, FrameInterval
from specprune_ros.pruning.methods.divprune import DivPruneConfig
from specprune_ros.pruning.methods.efficientvla import EfficientVLAConfig
from specprune_ros.pruning.methods.fastv import FastVConfig
from specprune_ros.pruning.methods.sparsevlm import SparseVLMConfig
from specprune_ros.pruning.methods.vla_cache import VLACacheConfig
from specprune_ros.pruning.methods.vla_pruner import VLAPrunerConfig
from specprune_ros.pruning.presets import PRESETS, preset

NAN = float("nan")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_pass_their_own_checks(name):
    config = preset(name)
    assert replace(config) == config


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("static", {"direction": "x"}, "direction is 'x', expected one of text_to_vision"),
        ("static", {"dynamic_rule": "x"}, "dynamic_rule"),
        ("static", {"global_rows": "x"}, "global_rows"),
        ("static", {"global_budget": "x"}, "global_budget"),
        ("static", {"similarity": "x"}, "similarity"),
        ("static", {"tau_scene": NAN}, "tau_scene"),
        ("static", {"use_global": 1}, "true or false"),
        ("dynamic", {"ratio_of": "x"}, "ratio_of"),
        ("dynamic", {"confidence": "x"}, "confidence"),
        ("dynamic", {"confidence_per": "x"}, "confidence_per"),
        ("dynamic", {"floor": 1.5}, "floor is 1.5, expected a whole number"),
        ("controller", {"rule": "x"}, "rule"),
        ("controller", {"source": "x"}, "source"),
        (None, {"first_query": "x"}, "first_query"),
        (None, {"refresh_every": "2"}, "refresh_every"),
    ],
)
def test_specprune_settings(part, change, message):
    config = preset("specprune")
    with pytest.raises(ConfigurationError, match=message):
        replace(config if part is None else getattr(config, part), **change)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Budget(40, 32, 50.5),
        lambda: FrameInterval(slope=NAN),
        lambda: FrameInterval(offset=float("inf")),
        lambda: FrameInterval(rounding="x"),
        lambda: FastVConfig(boundary=32),
        lambda: FastVConfig(boundary=0),
        lambda: FastVConfig(keep=NAN),
        lambda: EfficientVLAConfig(boundary=32),
        lambda: DivPruneConfig(pool="x"),
        lambda: SparseVLMConfig(shares=(-2.0, -1.0, 0.5)),
        lambda: VLACacheConfig(relevance_layer=40),
        lambda: VLACacheConfig(tau=NAN),
        lambda: VLACacheConfig(shares=(2.0, 2.0, 2.0, 2.0)),
        lambda: VLAPrunerConfig(action_layers=(40,)),
        lambda: VLAPrunerConfig(action_layers=(-5,)),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ConfigurationError):
        make()
