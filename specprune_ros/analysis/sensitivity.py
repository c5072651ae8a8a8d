"""``specprune analyze sensitivity``: what each budget buys, and all of them together (alpha)."""
from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from specprune_ros.analysis.inputs import add_stream_arguments, load_inputs
from specprune_ros.analysis.output import (
    caption,
    provenance,
    queries_text,
    say_written,
    stream_facts,
    write_csv,
    write_json,
)
from specprune_ros.analysis.plots import figure, save, style
from specprune_ros.analysis.sweep import (
    add_preset_argument,
    base_config,
    flat_row,
    make_policies,
    measure_variants,
)
from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.config import Budget, CameraBudgets, SpecPruneConfig

FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0)
KNOBS = {
    "alpha": ("global_", "dynamic", "local"),
    "global": ("global_",),
    "dynamic": ("dynamic",),
    "local": ("local",),
}
_SITUATIONS = ("scene_coarse", "scene_fine", "wrist_coarse", "wrist_fine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS), metavar="F",
                        help="the preset's budgets are multiplied by each of these")
    parser.add_argument("--knobs", nargs="+", choices=tuple(KNOBS), default=list(KNOBS),
                        metavar="KNOB", help=f"which budgets: {', '.join(KNOBS)} (alpha = all)")
    add_preset_argument(parser)
    add_stream_arguments(parser)


def run(args: argparse.Namespace) -> int:
    factors = sorted(set(args.factors))
    if not all(np.isfinite(f) and f >= 0 for f in factors):
        raise ConfigurationError(f"--factors are {args.factors}; they must be finite and >= 0")
    config = base_config(args)
    inputs = load_inputs(args)
    # A budget times one is the preset itself, whatever the knob: measured once.
    variants = {"preset": config} | {
        _label(knob, factor): scaled(config, factor, KNOBS[knob])
        for knob in args.knobs for factor in factors if factor != 1.0
    }
    found = measure_variants(inputs, make_policies(inputs, variants), "sensitivity")
    knobs = {
        knob: [
            {"factor": factor, "budgets": _numbers(scaled(config, factor, KNOBS[knob]).budgets),
             **found["preset" if factor == 1.0 else _label(knob, factor)].summary()}
            for factor in factors
        ]
        for knob in args.knobs
    }
    document = {**provenance(args, "analyze sensitivity"), **stream_facts(inputs),
                "preset": config.name, "knobs": knobs}
    out = args.out / "sensitivity"
    rows = [flat_row({"knob": knob}, point, None) for knob, points in knobs.items()
            for point in points]
    n = queries_text(inputs.queries, (point for points in knobs.values() for point in points))
    written = [
        write_json(out.with_suffix(".json"), document),
        write_csv(out.with_suffix(".csv"), rows),
        _plot(out.with_suffix(".png"), knobs,
              caption(inputs.policy, inputs.checkpoint, n)),
    ]
    say_written(written)
    return 0


def scaled(config: SpecPruneConfig, factor: float, names: tuple[str, ...]) -> SpecPruneConfig:
    """The budgets of these sets times a factor, rounded half up, in both modes and all cameras."""
    budgets = {
        situation: _times(getattr(config.budgets, situation), factor, names)
        for situation in _SITUATIONS
    }
    return replace(config, budgets=CameraBudgets(**budgets))


def _times(budget: Budget, factor: float, names: tuple[str, ...]) -> Budget:
    return replace(budget, **{n: int(getattr(budget, n) * factor + 0.5) for n in names})


def _numbers(budgets: CameraBudgets) -> dict[str, dict[str, int]]:
    return {s: {"global": b.global_, "dynamic": b.dynamic, "local": b.local}
            for s in _SITUATIONS for b in (getattr(budgets, s),)}


def _label(knob: str, factor: float) -> str:
    return f"{knob} x{factor:g}"


def _plot(path: Path, knobs: dict[str, list[dict[str, Any]]], text: str) -> Path:
    drawn, (tokens, flops, distance) = figure(1, 3, 14.0, 4.8)
    for index, (knob, points) in enumerate(knobs.items()):
        x = [point["factor"] for point in points]
        line = {"label": "alpha (all three)" if knob == "alpha" else knob, **style(index)}
        tokens.plot(x, [p["kept_visual_mean"] for p in points], **line)
        flops.plot(x, [100 * p["flops_ratio"] for p in points], **line)
        distance.plot(x, [p["action_l1_chunk"] for p in points], **line)
    tokens.set(title="Tokens", ylabel="visual tokens, mean over layers", ylim=(0, None))
    flops.set(title="Cost", ylabel="decoder FLOPs (% of dense)", ylim=(0, None))
    distance.set(title="Change of the actions", ylim=(0, None),
                 ylabel="L1 from dense over the chunk (normalised units)")
    for axis in (tokens, flops, distance):
        axis.set_xlabel("factor on the budget")
    tokens.legend()
    return save(drawn, path, "Sensitivity to the budgets", text)
