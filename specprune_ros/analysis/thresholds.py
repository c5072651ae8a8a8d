"""``specprune analyze thresholds``: how the controller's thresholds decide cost and success."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from specprune_ros.analysis.inputs import add_stream_arguments, load_inputs
from specprune_ros.analysis.output import (
    caption,
    counted,
    provenance,
    queries_text,
    say_written,
    stream_facts,
    write_csv,
    write_json,
)
from specprune_ros.analysis.plots import figure, save, style
from specprune_ros.analysis.recording import Recording
from specprune_ros.analysis.sweep import (
    add_preset_argument,
    add_suite_arguments,
    base_config,
    flat_row,
    make_policies,
    measure_variants,
    success_of,
)
from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import ControllerConfig
from specprune_ros.types import Mode

FACTORS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
WHICH = ("translation", "rotation", "both")
_COMMANDED = (
    "fine_share_periods and mode_changes are not known: the preset's controller judges the motion "
    "that each policy commands itself, not the recorded velocities"
)
_NO_TWISTS = "fine_share_periods and mode_changes are not known: no recording has ee_twists"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS), metavar="F",
                        help="the preset's thresholds are multiplied by each of these")
    parser.add_argument("--which", choices=WHICH, default="both",
                        help="thresholds that are multiplied, for entering and for leaving alike")
    add_preset_argument(parser)
    add_suite_arguments(parser)
    add_stream_arguments(parser)


def run(args: argparse.Namespace) -> int:
    factors = sorted(set(args.factors))
    if not all(np.isfinite(f) and f >= 0 for f in factors):
        raise ConfigurationError(f"--factors are {args.factors}; they must be finite and >= 0")
    config = base_config(args)
    inputs = load_inputs(args)
    variants = {
        f"{factor:g}": replace(config, controller=scaled(config.controller, factor, args.which))
        for factor in factors
    }
    policies = make_policies(inputs, variants)
    found = measure_variants(inputs, policies, "thresholds")
    loops = success_of(args, policies)
    names = scaled_names(config.controller, args.which)
    points = []
    for factor, (label, policy) in zip(factors, policies.items()):
        controller = variants[label].controller
        points.append({
            "factor": factor,
            "thresholds": {n: getattr(controller, n) for n in names},
            **fine_periods(policy, inputs.recordings),
            **found[label].summary(),
            "closed_loop": loops.get(label),
        })
    document = {**provenance(args, "analyze thresholds"), **stream_facts(inputs),
                "preset": config.name, "scaled": names,
                "note": periods_note(config.controller, inputs.recordings), "points": points}
    out = args.out / "thresholds"
    n = queries_text(inputs.queries, points)
    if loops:
        n += f", {counted(args.episodes, 'episode')} of {args.suite}"
    written = [
        write_json(out.with_suffix(".json"), document),
        write_csv(out.with_suffix(".csv"), [_row(point) for point in points]),
        _plot(out.with_suffix(".png"), points, args.which,
              caption(inputs.policy, inputs.checkpoint, n)),
    ]
    say_written(written)
    return 0


def scaled(config: ControllerConfig, factor: float, which: str) -> ControllerConfig:
    """The thresholds of ``which`` speeds times a factor, those for entering and for leaving alike,
    so that their order stays."""
    names = scaled_names(config, which)
    return replace(config, **{name: getattr(config, name) * factor for name in names})


def scaled_names(config: ControllerConfig, which: str) -> tuple[str, ...]:
    """The thresholds of ``which`` speeds that the controller's rule uses.

    The upward velocity of rule ``and`` stays: it stands for "not rising", whatever the speed.
    """
    used = config.thresholds()
    if config.rule == "and":
        del used["enter_vertical"]
    return tuple(
        name for name in used
        if which == "both" or name.endswith("_rotation") == (which == "rotation")
    )


def periods_note(config: ControllerConfig, recordings: Sequence[Recording]) -> str:
    """Why the mode of each control period is not known; empty where it is."""
    if config.source == "commanded":
        return _COMMANDED
    return _NO_TWISTS if all(r.ee_twists is None for r in recordings) else ""


def fine_periods(policy: Policy, recordings: Sequence[Recording]) -> dict[str, Any]:
    """Share of control periods in fine mode and how often the mode changes, from recorded twists.

    Costs no query. None where no recording has twists, or the controller does not judge by them
    (see :func:`periods_note`).
    """
    if policy.pruner.config.controller.source == "commanded":
        return {"fine_share_periods": None, "mode_changes": None}
    modes: list[bool] = []
    changes = 0
    for recording in recordings:
        if recording.ee_twists is None:
            continue
        episode, before = policy.make_episode(), Mode.COARSE
        for stamp, twist in zip(recording.stamps, recording.ee_twists):
            policy.observe(None, float(stamp), twist, episode=episode)
            mode = episode.state.controller.mode
            changes += mode is not before
            modes.append(mode is Mode.FINE)
            before = mode
    return {
        "fine_share_periods": float(np.mean(modes)) if modes else None,
        "mode_changes": changes if modes else None,
    }


def _row(point: dict[str, Any]) -> dict[str, Any]:
    label = {"factor": point["factor"], **point["thresholds"]}
    rest = {k: v for k, v in point.items() if k not in ("factor", "thresholds", "closed_loop")}
    return flat_row(label, rest, point["closed_loop"])


def _plot(path: Path, points: list[dict[str, Any]], which: str, text: str) -> Path:
    drawn, axes = figure(2, 2, 10.0, 7.0)
    x = [point["factor"] for point in points]
    share, tokens, flops, time = axes
    if points[0]["fine_share_periods"] is not None:
        share.plot(x, [100 * p["fine_share_periods"] for p in points],
                   label="control periods in fine mode", **style(0))
    share.plot(x, [100 * p["fine_share"] for p in points], label="queries in fine mode",
               linestyle="--",
               **style(1))
    if points[0]["closed_loop"]:
        share.plot(x, [100 * p["closed_loop"]["success_rate"] for p in points],
                   label="episodes that succeed", linestyle=":", **style(2))
    share.set(ylabel="share (%)", ylim=(-5, 105))
    tokens.plot(x, [p["kept_visual_mean"] for p in points], label="mean over layers", **style(0))
    tokens.plot(x, [p["kept_visual_last_layer"] for p in points], label="last layer",
                linestyle="--", **style(1))
    tokens.set(ylabel="visual tokens")
    flops.plot(x, [100 * p["flops_ratio"] for p in points], label="all queries", **style(0))
    flops.plot(x, [_percent(p["flops_ratio_steady"]) for p in points], label="pruned queries",
               linestyle="--", **style(1))
    flops.set(ylabel="decoder FLOPs (% of dense)")
    time.plot(x, [p["cpu_ms_median"] for p in points], label="median query", **style(0))
    time.set(ylabel="CPU time (ms)")
    what = {"both": "speed"}.get(which, which)
    for axis in axes:
        axis.set_xlabel(f"factor on the {what} thresholds")
        if axis is not share:
            axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
        axis.legend()
    return save(drawn, path, "Controller thresholds", text)


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share
