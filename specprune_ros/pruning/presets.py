"""Named variants of SpecPrune-VLA over one engine; docs/method.md compares them."""
from __future__ import annotations

from typing import Callable

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.config import (
    Budget,
    CameraBudgets,
    ControllerConfig,
    DynamicConfig,
    FrameInterval,
    SpecPruneConfig,
    StaticConfig,
)


def specprune() -> SpecPruneConfig:
    """The default: the paper's rules with the defects of its released code mended."""
    return SpecPruneConfig(
        name="specprune",
        budgets=CameraBudgets(
            scene_coarse=Budget(global_=24, dynamic=20, local=24),
            scene_fine=Budget(global_=40, dynamic=32, local=40),
            # Pruning the wrist view as hard as the scene costs the most success.
            wrist_coarse=Budget(global_=30, dynamic=24, local=30),
            wrist_fine=Budget(global_=48, dynamic=40, local=48),
        ),
    )


def _paper_controller() -> ControllerConfig:
    """The paper's AND rule on commanded motion: one threshold per speed, no dwell, Delta z <= 0.

    The paper prints no thresholds; those of the default serve.
    """
    return ControllerConfig(
        source="commanded",
        enter_vertical=0.0,
        exit_translation=0.10,
        exit_rotation=0.50,
        min_dwell=0.0,
        time_constant=0.0,
    )


def paper_v1() -> SpecPruneConfig:
    """arXiv v1 (September 2025): K = 24 coarse / 40 fine, mean/std confidence, no floor given."""
    coarse, fine = Budget(global_=24, dynamic=20, local=24), Budget(40, 20, 40)
    return SpecPruneConfig(
        name="paper_v1",
        budgets=CameraBudgets(coarse, fine, coarse, fine),
        static=StaticConfig(
            interim_factor=0,  # its FLOPs model counts two full layers
            direction="vision_to_text",
            global_layers=(31,),
            global_rows="instruction",
            carry=0.0,
            similarity="cosine",
            tau_scene=0.986,
            tau_wrist=0.986,
            compare_last_query=False,
        ),
        dynamic=DynamicConfig(
            update_layers=(5, 10, 15, 20),
            prune_layers=(5, 10, 15, 20),
            floor=0,
            confidence="mean_std",
        ),
        controller=_paper_controller(),
        first_query="prune",
    )


def paper_icml() -> SpecPruneConfig:
    """arXiv v2/v3 (ICML 2026): K_G 30, K_L 24, K_D 20 scaled by alpha = 0.8, two global layers."""
    coarse = Budget(global_=24, dynamic=16, local=19)
    # "scaled up" in fine mode: the ratio 40 / 24 of v1.
    fine = Budget(global_=40, dynamic=27, local=32)
    return SpecPruneConfig(
        name="paper_icml",
        budgets=CameraBudgets(coarse, fine, coarse, fine),
        static=StaticConfig(
            interim_factor=0,
            direction="vision_to_text",
            global_layers=(14, 31),
            global_rows="instruction",
            carry=0.0,
            similarity="cosine",
            tau_scene=0.986,
            tau_wrist=0.986,
            compare_last_query=False,
            interval=FrameInterval(offset=7.0, slope=-1.0),
        ),
        dynamic=DynamicConfig(
            update_layers=(5, 10, 15, 20),
            prune_layers=(5, 10, 15, 20),
            floor=0,
            confidence="entropy_nats",
        ),
        controller=_paper_controller(),
        first_query="prune",
    )


def release() -> SpecPruneConfig:
    """The authors' released constants and rules, smaller fine budgets included.

    Not reproduced: reading the actions one row late, text windows at fixed positions, comparing a
    frame with itself where there is no earlier one, and the frozen first steps of an episode.
    """
    return SpecPruneConfig(
        name="release",
        budgets=CameraBudgets(
            scene_coarse=Budget(global_=24, dynamic=20, local=24),
            scene_fine=Budget(global_=14, dynamic=16, local=15),
            wrist_coarse=Budget(global_=18, dynamic=26, local=19),
            wrist_fine=Budget(global_=12, dynamic=20, local=12),
        ),
        static=StaticConfig(
            global_rows="instruction",
            global_budget="previous",
            interim_factor=2,
            carry=0.0,
            similarity="cosine",
            tau_scene=0.986,
            tau_wrist=0.98,
            dynamic_rule="static_cap",
            compare_last_query=False,
            interval=FrameInterval(
                slope=-(16 / 3) / 6, added=3, longest=6, lag=1, rounding="trunc", speed="net"
            ),
        ),
        dynamic=DynamicConfig(
            update_layers=(14, 19, 24),
            ratio_of="total",
            floor=59,
            rank_slope=1.0,
            confidence_per="episode",
            allow_unscored_prune=True,
        ),
        # Controller units per 20 Hz step are metres per second; rotations count 10 rad/s each.
        controller=ControllerConfig(
            rule="release",
            source="commanded",
            enter_translation=0.35,
            enter_rotation=2.0,
            enter_horizontal=0.1,
            enter_vertical=0.1,
            exit_vertical=0.2,
            exit_rotation=3.0,
            exit_at_chunk_end=True,
            min_dwell=0.0,
            warm_up=0.5,
            time_constant=0.0,
        ),
        first_query="prune",
        allow_fine_below_coarse=True,
    )


PRESETS: dict[str, Callable[[], SpecPruneConfig]] = {
    "specprune": specprune,
    "paper_v1": paper_v1,
    "paper_icml": paper_icml,
    "release": release,
}


def preset(name: str) -> SpecPruneConfig:
    """A preset by name; ConfigurationError lists the known ones."""
    if name not in PRESETS:
        raise ConfigurationError(f"unknown preset '{name}'; known: {', '.join(PRESETS)}")
    return PRESETS[name]()
