"""Names of methods, their knobs, and the counts that controls copy."""
from __future__ import annotations

import pytest

from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.methods import (
    VIEWS,
    copied_counts,
    knob_of,
    make_method,
    method_names,
    parse_methods,
    scaled_budgets,
)
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.registry import METHODS


def test_names_are_checked():
    assert parse_methods("off, specprune,off,blank") == ["off", "specprune", "blank"]
    for wrong in ("off,specprunes", ""):
        with pytest.raises(ConfigurationError, match="known: off, specprune"):
            parse_methods(wrong)


def test_every_method_can_be_made_and_has_its_name():
    for name in method_names():
        expected = "off" if name in VIEWS else name
        assert make_method(name).name == expected


def test_every_method_of_the_comparison_has_a_knob():
    for name in METHODS:
        knob = knob_of(name)
        if name in ("random", "uniform"):
            assert knob is None
            continue
        assert knob.name == "keep"
        assert make_method(name, 0.25).config.keep == 0.25
    for name in PRESETS:
        assert knob_of(name).name == "budget_scale"
    for name in ("off", *VIEWS):
        assert knob_of(name) is None
    assert make_method("random_keep", 0.3).config.keep == 0.3


def test_controls_draw_by_the_episode():
    assert make_method("random", seed=7).config.seed == 7
    assert make_method("random_keep", 0.5, seed=8).config.seed == 8


def test_budgets_scale_together():
    config = preset("specprune")
    double = scaled_budgets(config, 2.0)
    for name in ("scene_coarse", "scene_fine", "wrist_coarse", "wrist_fine"):
        before, after = getattr(config.budgets, name), getattr(double.budgets, name)
        for part in ("global_", "dynamic", "local"):
            assert getattr(after, part) == 2 * getattr(before, part)
    assert double.dynamic.floor == 2 * config.dynamic.floor
    assert scaled_budgets(config, 1.0) == config
    assert scaled_budgets(config, 0.001).budgets.scene_coarse.local == 1


def test_copied_counts_repeat_the_last_pruned_query():
    full, first, second = [[4, 4]], [[3, 2]], [[1, 2]]
    counts = copied_counts([full, first, full, second, full], [True, False, True, False, True], 7)
    assert len(counts.queries) == 7
    assert counts.queries[:5] == (((4, 4),), ((3, 2),), ((4, 4),), ((1, 2),), ((4, 4),))
    assert counts.queries[5:] == (((1, 2),),) * 2
    assert copied_counts([full], [True], 2).queries == (((4, 4),),) * 2
    assert len(copied_counts([full, first], [True, False], 1).queries) == 2
