"""SpecPrune on the recorded reference checkpoint and on the shipped one: 224 px, two cameras."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from specprune_harness import same_budgets

from specprune_ros.policy import Observation, load_policy
from specprune_ros.pruning.config import Budget
from specprune_ros.pruning.presets import PRESETS, preset

torch.set_num_threads(1)


def keep_all(name: str):
    """A preset whose whole machinery runs and drops nothing."""
    config = preset(name)
    return replace(
        config,
        budgets=same_budgets(Budget(512, 512, 512)),
        dynamic=replace(config.dynamic, keep=1.0),
        first_query="prune",
    )


@pytest.mark.parametrize("name", PRESETS)
def test_keeping_everything_gives_the_recorded_actions(golden_dir, golden_cases, name):
    """Invariant 1: bit for bit those of the dense policy, and so within 2e-5 of the reference."""
    policy = load_policy(golden_dir / "checkpoint", unnorm_key="libero_spatial_no_noops",
                         center_crop=False, jpeg_roundtrip=False)
    arrays, meta = golden_cases[0]
    images = {"primary": arrays["cropped_full"], "wrist": arrays["cropped_wrist"]}
    seen = Observation(images, meta["instruction"], arrays["proprio_raw"])
    policy.set_pruning("off")
    dense = policy.predict(seen)
    np.testing.assert_allclose(dense.normalized_actions, arrays["normalized_actions"], atol=2e-5)
    policy.set_pruning(keep_all(name))
    for _ in range(2):  # the second query has all three sets
        kept = policy.predict(seen)
        assert np.array_equal(kept.normalized_actions, dense.normalized_actions)
        assert kept.report.flops == kept.report.dense_flops
        assert all(len(rows) == 613 for rows in kept.report.kept_positions)


@pytest.mark.parametrize("name", PRESETS)
def test_rows_of_the_shipped_checkpoint(tiny_dir, name):
    """Invariants 2, 3, 7: over three queries of moving pictures the rows fall layer by layer, the
    report says the same as the rows, and the floor holds."""
    policy = load_policy(tiny_dir, pruning=name)
    random = np.random.default_rng(0)
    background = random.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    config = preset(name)
    for query in range(3):
        images = background.copy()
        images[:, 20 * query : 20 * query + 40, 60:100] = 255 - 80 * query
        seen = Observation(
            dict(zip(("primary", "wrist"), images)), "pick up the red cube",
            np.zeros(policy.proprio_dim) if policy.uses_proprio else None, stamp=0.4 * query,
        )
        report = policy.predict(seen).report
        rows = [set(positions.tolist()) for positions in report.kept_positions]
        assert all(after <= before for before, after in zip(rows, rows[1:]))
        visual = 2 * policy.patches_per_camera
        others = rows[0] - set(range(1, 1 + visual))
        assert all(others <= layer for layer in rows)
        assert report.visual_tokens_in == visual
        assert report.visual_tokens_kept == len(rows[-1] - others)
        if report.dense_refresh:
            assert query == 0 and config.first_query == "dense"
        else:
            assert len(rows[-1] - others) >= min(config.dynamic.floor, len(rows[2] - others))
            assert report.flops < report.dense_flops
