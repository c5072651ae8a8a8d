"""``specprune analyze options``: what each option beyond the method gains, and what it changes.

Each is measured beside the same method without it: its time, and how far its actions are away.
"""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from specprune_ros.analysis.inputs import Inputs, add_stream_arguments, load_dense, load_inputs
from specprune_ros.analysis.measure import measure
from specprune_ros.analysis.output import (
    caption,
    counted,
    progress_bar,
    provenance,
    queries_text,
    say_written,
    stream_facts,
    write_csv,
    write_json,
)
from specprune_ros.analysis.plots import COLOURS, figure, save
from specprune_ros.analysis.sweep import (
    add_preset_argument,
    add_suite_arguments,
    flat_row,
    success_of,
)
from specprune_ros.policy import Policy

DENSE, INT8 = "off", "int8"
OPTIONS = ("vision_reuse", "weights", "latency")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options that are tried")
    group.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    group.add_argument("--vision-reuse", nargs="+", type=float, default=[1.0, 0.99, 0.95],
                       metavar="SSIM", help="similarities from which on features are used again")
    group.add_argument("--latency-target-ms", nargs="+", type=float, default=[100.0],
                       metavar="MS", help="elapsed time that a pruned query may take")
    add_preset_argument(parser)
    add_suite_arguments(parser)
    add_stream_arguments(parser)


def run(args: argparse.Namespace) -> int:
    inputs = load_inputs(args)
    baseline = inputs.policy.with_pruning(args.preset)
    policies = make_policies(args, inputs)
    with progress_bar("options", inputs.queries * len(policies)) as progress:
        found = measure(baseline, policies, inputs.recordings, inputs.every, inputs.max_queries,
                        progress)
    loops = success_of(args, policies)
    results = {
        label: {**found[label].summary(), **facts(policies[label]),
                "closed_loop": loops.get(label)}
        for label in policies
    }
    document = {**provenance(args, "analyze options"), **stream_facts(inputs),
                "preset": args.preset, "variants": results}
    n = queries_text(inputs.queries, (r for label, r in results.items() if DENSE not in label))
    if loops:
        n += f", {counted(args.episodes, 'episode')} of {args.suite}"
    out = args.out / "options"
    rows = [
        flat_row({"variant": label}, {k: v for k, v in result.items() if k != "closed_loop"},
                 result["closed_loop"])
        for label, result in results.items()
    ]
    say_written([
        write_json(out.with_suffix(".json"), document),
        write_csv(out.with_suffix(".csv"), rows),
        _plot(out.with_suffix(".png"), results, args.preset,
              caption(inputs.policy, inputs.checkpoint, n)),
    ])
    return 0


def make_policies(args: argparse.Namespace, inputs: Inputs) -> dict[str, Policy]:
    """The preset without options first, then with one at a time; dense where that is of interest.

    With int8 a second copy of the weights is loaded.
    """
    plain, name = inputs.policy, args.preset
    found = {name: plain.with_pruning(name), DENSE: plain.with_pruning(DENSE)}
    if "vision_reuse" in args.options:
        for similarity in args.vision_reuse:
            label = f"{name}, vision_reuse {similarity:g}"
            found[label] = plain.with_pruning(name, vision_reuse=similarity)
    if "weights" in args.options:
        rounded = load_dense(args, plain.control_period, INT8)
        found[f"{name}, weights {INT8}"] = rounded.with_pruning(name)
        found[f"{DENSE}, weights {INT8}"] = rounded
    if "latency" in args.options:
        for target in args.latency_target_ms:
            label = f"{name}, latency_target_ms {target:g}"
            found[label] = plain.with_pruning(name, latency_target_ms=target)
    return found


def facts(policy: Policy) -> dict[str, Any]:
    """weight_bytes; bucket: rows after the static stage that a latency target chose, with the time
    it was chosen for."""
    choice = policy.runtime.choice
    return {
        "weight_bytes": policy.model.weight_bytes,
        "bucket": choice.bucket if choice else None,
        "bucket_ms": choice.expected_ms if choice else None,
    }


def _plot(path: Path, results: dict[str, dict[str, Any]], preset: str, text: str) -> Path:
    drawn, axes = figure(1, 3, 14.0, 1.6 + 0.5 * len(results))
    labels = list(results)
    panels = [
        ("query, CPU time (ms, median)", lambda r: r["cpu_ms_median"], "{:.1f}"),
        ("weights (MB)", lambda r: r["weight_bytes"] / 1e6, "{:.2f}"),
        (f"L1 from {preset} without options,\nover the chunk (normalised units)",
         lambda r: r["action_l1_chunk"], "{:.4f}"),
    ]
    for column, (axis, (title, value, form)) in enumerate(zip(axes, panels)):
        bars = axis.barh(labels, [value(result) for result in results.values()],
                         color=[COLOURS[label.startswith(DENSE)] for label in labels])
        axis.bar_label(bars, [form.format(value(r)) for r in results.values()], padding=3,
                       fontsize=9)
        axis.set_xlabel(title)
        axis.margins(x=0.2)
        axis.grid(axis="y", visible=False)
        axis.invert_yaxis()
        if column:
            axis.tick_params(labelleft=False)
    return save(drawn, path, "Options beyond the method", text)
