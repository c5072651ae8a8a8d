"""SpecPrune against a naive version of it on sets of absolute positions."""
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specprune_harness import layout, same_budgets, two_queries

from specprune_ros.pruning.config import Budget
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.types import Mode

budgets = st.builds(
    Budget, global_=st.integers(0, 9), dynamic=st.integers(0, 9), local=st.integers(0, 9)
)
layouts = st.builds(
    layout,
    cameras=st.integers(1, 3),
    patches=st.sampled_from([9, 16]),
    proprio=st.booleans(),
    prompt=st.integers(17, 40),
)


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=20, deadline=None)
@given(
    of=layouts,
    budget=budgets,
    depth=st.integers(1, 12),
    floor=st.integers(0, 12),
    seed=st.integers(0, 10**6),
    coarse=st.booleans(),
    fine=st.booleans(),
)
def test_rows_of_every_layer_are_those_of_the_naive_version(
    name, of, budget, depth, floor, seed, coarse, fine
):
    """Invariants 7, 14, 15: sets, floor, alignment of scores with positions; ties included."""
    config = preset(name)
    config = replace(
        config,
        budgets=same_budgets(budget),
        dynamic=replace(config.dynamic, floor=floor),
    )
    modes = (Mode.COARSE, Mode.FINE if fine else Mode.COARSE, Mode.COARSE)
    for session, naive, entered, expected in two_queries(config, of, depth, seed, coarse, modes):
        assert entered == expected
        # The bookkeeping of the report says the same as the rows.
        result = session.finish()
        for index, camera in enumerate(result.cameras):
            own = set(of.camera(index))
            assert camera.tokens_in == len(own)
            assert camera.global_set == len(naive.sets["G"] & own)
            assert camera.dynamic_set == len(naive.sets["D"] & own)
            if not naive.dense:
                assert camera.local_set == len(set().union(*naive.found) & own)
            after_static = max(naive.schedule.local, default=-1) + 1
            assert camera.kept_static == len(set(entered[after_static]) & own)
            assert len(camera.kept_dynamic) == len(result.dynamic_layers)
            for layer, kept in zip(result.dynamic_layers, camera.kept_dynamic):
                assert kept == len(set(entered[layer + 1]) & own)
        assert result.dense_refresh == naive.dense


@pytest.mark.parametrize("switched_off", ["use_global", "use_dynamic", "use_local"])
@pytest.mark.parametrize("local_layers", [(0,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("interim_factor", [0, 1, 2])
def test_ablations_follow_the_naive_version(switched_off, local_layers, interim_factor):
    """Invariant 7 with a set left out, other depths of speculation and other interim budgets."""
    config = preset("specprune")
    static = replace(
        config.static, local_layers=local_layers, interim_factor=interim_factor,
        **{switched_off: False},
    )
    config = replace(config, static=static, budgets=same_budgets(Budget(4, 3, 4)),
                     dynamic=replace(config.dynamic, floor=2))
    for _, _, entered, expected in two_queries(config, layout(), 8, seed=5, coarse=False):
        assert entered == expected
