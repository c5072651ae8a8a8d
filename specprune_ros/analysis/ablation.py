"""``specprune analyze ablation``: the method without each of its parts."""
from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from specprune_ros.analysis.plots import COLOURS, figure, save
from specprune_ros.analysis.sweep import (
    Variant,
    add_preset_argument,
    add_suite_arguments,
    base_config,
    flat_row,
    make_policies,
    measure_variants,
    success_of,
)
from specprune_ros.pruning.config import FrameInterval, SpecPruneConfig, StaticConfig

DENSE = "dense"  # the variant that prunes nothing
INTERVALS = (1, 4, 11)  # control periods: the frame before, half a chunk, the longest of the paper


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_preset_argument(parser)
    add_suite_arguments(parser)
    add_stream_arguments(parser)


def run(args: argparse.Namespace) -> int:
    config = base_config(args)
    inputs = load_inputs(args)
    groups = variants(config)
    flat = {label: variant for group in groups.values() for label, variant in group.items()}
    policies = make_policies(inputs, flat)
    found = measure_variants(inputs, policies, "ablation")
    loops = success_of(args, policies)
    results = {
        label: {"group": group, **found[label].summary(), "closed_loop": loops.get(label)}
        for group, members in groups.items() for label in members
    }
    document = {**provenance(args, "analyze ablation"), **stream_facts(inputs),
                "preset": config.name, "variants": results}
    n = queries_text(inputs.queries, (r for label, r in results.items() if label != DENSE))
    if loops:
        n += f", {counted(args.episodes, 'episode')} of {args.suite}"
    out = args.out / "ablation"
    rows = [
        flat_row({"variant": label}, {k: v for k, v in result.items() if k != "closed_loop"},
                 result["closed_loop"])
        for label, result in results.items()
    ]
    written = [
        write_json(out.with_suffix(".json"), document),
        write_csv(out.with_suffix(".csv"), rows),
        _plot(out.with_suffix(".png"), results,
              caption(inputs.policy, inputs.checkpoint, n)),
    ]
    say_written(written)
    return 0


def variants(config: SpecPruneConfig) -> dict[str, dict[str, Variant]]:
    """Groups of variants by label. The first group is the frame of reference: nothing pruned, the
    preset, and the preset with none of its sets: no patch survives its speculation layers."""

    def static(**changes) -> SpecPruneConfig:
        return replace(config, static=replace(config.static, **changes))

    def interval(steps: int) -> StaticConfig:
        fixed = FrameInterval(offset=0.0, slope=0.0, added=steps, longest=steps)
        return replace(config.static, interval=fixed)

    off = replace(config.controller, enabled=False)
    return {
        "reference": {
            DENSE: "off",
            config.name: config,
            "no set": static(use_global=False, use_dynamic=False, use_local=False),
        },
        "without": {
            "without global": static(use_global=False),
            "without dynamic": static(use_dynamic=False),
            "without local": static(use_local=False),
            "without dynamic stage": replace(
                config, dynamic=replace(config.dynamic, enabled=False)
            ),
            "without controller": replace(config, controller=off),
        },
        "speculation": {
            f"speculation depth {d}": static(local_layers=tuple(range(d))) for d in (1, 2, 3)
        },
        "interval": {
            **{f"frame interval {t}": replace(config, static=interval(t)) for t in INTERVALS},
            "without last query's frame": static(compare_last_query=False),
        },
    }


def _plot(path: Path, results: dict[str, dict[str, Any]], text: str) -> Path:
    loops = any(result["closed_loop"] for result in results.values())
    drawn, axes = figure(1, 4 if loops else 3, 14.0, 7.0)
    labels = list(results)
    groups = list(dict.fromkeys(result["group"] for result in results.values()))
    colours = [COLOURS[groups.index(result["group"])] for result in results.values()]
    panels = [
        ("visual tokens, mean over layers", lambda r: r["kept_visual_mean"], "{:.0f}"),
        ("decoder FLOPs (% of dense)", lambda r: 100 * r["flops_ratio"], "{:.1f}"),
        ("L1 from dense over the chunk\n(normalised units)", lambda r: r["action_l1_chunk"],
         "{:.4f}"),
    ]
    if loops:
        panels.append(("success in closed loop (%)",
                       lambda r: 100 * r["closed_loop"]["success_rate"], "{:.0f}"))
    for column, (axis, (title, value, form)) in enumerate(zip(axes, panels)):
        bars = axis.barh(labels, [value(result) for result in results.values()], color=colours)
        axis.bar_label(bars, [form.format(value(r)) for r in results.values()], padding=3,
                       fontsize=9)
        axis.set_xlabel(title)
        axis.margins(x=0.18)
        if title.startswith("success"):
            axis.set_xlim(0, 118)
        axis.grid(axis="y", visible=False)
        axis.invert_yaxis()
        if column:
            axis.tick_params(labelleft=False)
    return save(drawn, path, "Ablation", text)
