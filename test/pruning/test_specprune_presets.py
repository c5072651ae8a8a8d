"""The named variants: constants of their sources, budgets, and layers of decoders of any depth."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from specprune_harness import context, frames, layout, play, script

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.config import Budget, DynamicConfig, StaticConfig
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.schedule import Schedule, scale_layers
from specprune_ros.pruning.specprune import QueryHistory, SpecPrune
from specprune_ros.types import Mode


def test_constants_of_the_release():
    """Of the authors' code; docs/method.md has the table."""
    config = preset("release")
    budgets, static, dynamic = config.budgets, config.static, config.dynamic
    # K_attn 24 / 19 coarse and 15 / 12 fine; half of it, rounded down, per global layer;
    # N - K_S patches at least, K_S = 236 / 230 coarse and 240 / 236 fine.
    for found, local, cap in (
        (budgets.scene_coarse, 24, 236), (budgets.wrist_coarse, 19, 230),
        (budgets.scene_fine, 15, 240), (budgets.wrist_fine, 12, 236),
    ):
        assert found == Budget(2 * (local // 2), 256 - cap, local)
    assert static.global_layers == (14, 30) and static.interim_factor == 2
    assert (static.tau_scene, static.tau_wrist) == (0.986, 0.98)
    assert static.direction == "text_to_vision" and static.carry == 0.0
    assert dynamic.update_layers == (14, 19, 24) and dynamic.prune_layers == (10, 15, 20, 25)
    assert (dynamic.keep, dynamic.ratio_of, dynamic.floor) == (0.9, "total", 59)
    assert (dynamic.beta, dynamic.rank_slope, dynamic.confidence_per) == (0.2, 1.0, "episode")


def test_constants_of_the_papers():
    """Of arXiv v1 and of the ICML version."""
    v1, icml = preset("paper_v1"), preset("paper_icml")
    assert v1.budgets.scene_coarse.local == 24 and v1.budgets.scene_fine.local == 40
    # K_G 30, K_D 20, K_L 24 times alpha = 0.8.
    assert icml.budgets.scene_coarse == Budget(24, 16, 19)
    assert icml.static.global_layers == (14, 31)  # "15 and 32", counted from 1
    assert v1.dynamic.confidence == "mean_std" and icml.dynamic.confidence == "entropy_nats"
    for config in (v1, icml):
        assert config.static.direction == "vision_to_text"
        assert config.static.similarity == "cosine"
        assert config.static.interim_factor == 0  # two full layers
        assert config.static.dynamic_rule == "lowest"
        assert not config.static.compare_last_query
        assert config.dynamic.prune_layers == (5, 10, 15, 20)
        assert (config.dynamic.keep, config.dynamic.beta) == (0.9, 0.2)
        assert config.controller.rule == "and" and config.controller.source == "commanded"


def test_the_default_gives_the_wrist_more():
    """The wrist camera's budgets are its own, and larger."""
    budgets = preset("specprune").budgets
    for mode in Mode:
        scene, wrist = budgets.of("primary", mode), budgets.of("left_wrist", mode)
        for field in ("global_", "dynamic", "local"):
            assert getattr(wrist, field) > getattr(scene, field)


def test_unknown_preset():
    with pytest.raises(ConfigurationError, match="unknown preset 'x'; known: specprune"):
        preset("x")


# Layers ------------------------------------------------------------------------------------


def test_layers_scale_by_relative_depth():
    """Layers are stated for 32 and keep their place, the first and the last one exactly."""
    assert scale_layers((0, 14, 30, 31), 32) == (0, 14, 30, 31)
    assert scale_layers((0, 14, 31), 8) == (0, 3, 7)
    assert scale_layers((10, 15, 20, 25), 8) == (2, 3, 5, 6)
    assert scale_layers((0, 31), 1) == (0,)


@given(layers=st.sets(st.integers(0, 31), min_size=1), depth=st.integers(1, 80))
def test_scaled_layers_exist_and_ascend(layers, depth):
    scaled = scale_layers(sorted(layers), depth)
    assert list(scaled) == sorted(set(scaled))
    assert 0 <= scaled[0] and scaled[-1] < depth
    if depth >= 32:
        assert len(scaled) == len(layers)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("depth", range(1, 65))
def test_a_schedule_for_every_depth(name, depth):
    """Invariant 14: a score precedes the first pruning (all but the release), stages lie behind the
    speculation layers, and nothing is pruned after the last layer."""
    schedule = preset(name).schedule(depth)
    assert schedule.global_
    assert all(layer < depth for layer in schedule.global_)
    assert all(layer < depth - 1 for layer in schedule.local + schedule.prune)
    if depth >= 3:
        assert schedule.local == (0, 1)
    if schedule.prune:
        assert schedule.prune[0] > schedule.local[-1]
        assert schedule.update[-1] <= schedule.prune[-1]
        if name != "release":
            assert schedule.update[0] <= schedule.prune[0]
    if depth >= 8:
        assert schedule.prune


@given(
    update=st.sets(st.integers(0, 31), min_size=1),
    prune=st.sets(st.integers(0, 31), min_size=1),
    local=st.integers(1, 4),
    depth=st.integers(2, 64),
)
def test_any_valid_schedule_scores_before_it_prunes(update, prune, local, depth):
    """Invariant 14 as a property of the scaling: what holds for 32 layers holds for all."""
    layers = {"update_layers": tuple(sorted(update)), "prune_layers": tuple(sorted(prune))}
    if min(update) > min(prune):
        with pytest.raises(ConfigurationError):
            DynamicConfig(**layers)
        return
    static = StaticConfig(local_layers=tuple(range(local)))
    schedule = Schedule.of(static, DynamicConfig(**layers), depth)
    if schedule.prune:
        assert schedule.update and schedule.update[0] <= schedule.prune[0]


def test_release_prunes_before_it_has_a_score():
    """A defect that is reproduced on purpose: layer 10 comes before the first update at 14."""
    schedule = preset("release").schedule(32)
    assert schedule.prune[0] < schedule.update[0]


# Budgets of 2.4 ----------------------------------------------------------------------------


def second_query(name: str, mode: Mode, now: torch.Tensor, before: torch.Tensor, of, depth: int):
    config = preset(name)
    layers = config.schedule(depth).global_
    generator = torch.Generator().manual_seed(0)
    shape = (len(layers), len(of.cameras), of.patches_per_camera)
    history = QueryHistory(layers, torch.rand(shape, generator=generator), mode)
    session = SpecPrune(config).begin(
        context(of, depth, mode=mode, query_number=1, history=history, frame=now,
                step_frame=before, query_frame=before)
    )
    entered = play(session, of, script(of, depth, 1))
    return session.finish(), entered


@pytest.mark.parametrize(
    ("name", "mode", "most", "least"),
    [("release", Mode.COARSE, 174, 46 + 24), ("release", Mode.FINE, 116, 36 + 15),
     ("paper_v1", Mode.COARSE, 2 * (24 + 48), 2 * 24),
     ("paper_v1", Mode.FINE, 2 * (40 + 80), 2 * 40)],
)
def test_visual_tokens_of_a_static_scene(name, mode, most, least):
    """Invariant 7: sums of the budgets; release coarse <= 174 of 512, fine <= 116."""
    of = layout(2, 256)
    frame = frames(of, 0)
    result, entered = second_query(name, mode, frame, frame, of, 4)
    kept = sum(camera.kept_static for camera in result.cameras)
    assert least <= kept <= most
    assert kept == len(set(entered[2]) & set(of.visual))


def test_fine_mode_keeps_more_tokens_in_the_default_and_fewer_in_the_release():
    """Invariant 17 where it counts: in the rows."""
    of = layout(2, 256)
    now, before = frames(of, 1), frames(of, 2)
    still = frames(of, 1)
    for name, frame, more in (("specprune", before, True), ("release", still, False)):
        coarse, fine = (
            sum(c.kept_static for c in second_query(name, m, now, frame, of, 4)[0].cameras)
            for m in Mode
        )
        assert (fine > coarse) is more


def test_the_release_uses_the_budget_of_the_previous_mode():
    """The choice was made when the previous query ended."""
    of = layout(1, 256)
    frame = frames(of, 0)
    config = preset("release")
    layers = config.schedule(8).global_
    scores = torch.rand(len(layers), 1, 256, generator=torch.Generator().manual_seed(0))
    counts = {}
    for before in Mode:
        history = QueryHistory(layers, scores, before)
        session = SpecPrune(config).begin(
            context(of, 8, mode=Mode.COARSE, query_number=1, history=history, frame=frame)
        )
        counts[before] = int(session.global_set.sum())
    assert counts[Mode.COARSE] > counts[Mode.FINE]
    assert counts[Mode.FINE] <= config.budgets.scene_fine.global_


def test_confidence_of_the_release_is_that_of_the_first_query():
    """It is computed once per episode and layer."""
    of, config = layout(2, 64), preset("release")
    first = SpecPrune(config).begin(context(of, 32))
    play(first, of, script(of, 32, 1))
    history = first.finish().history
    assert set(history.confidence) <= set(config.dynamic.update_layers)
    assert history.confidence
    second = SpecPrune(config).begin(context(of, 32, query_number=1, history=history))
    play(second, of, script(of, 32, 2))
    for layer, value in history.confidence.items():
        assert second.finish().history.confidence[layer] is value
    # The default looks afresh each time.
    fresh = SpecPrune(preset("specprune")).begin(context(of, 32))
    play(fresh, of, script(of, 32, 1))
    assert fresh.finish().history.confidence == {}
