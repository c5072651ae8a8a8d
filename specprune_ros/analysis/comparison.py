"""``specprune compare``: every method on the same observations, beside the dense policy."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from specprune_ros.analysis.inputs import Inputs, add_stream_arguments, load_inputs
from specprune_ros.analysis.measure import Measurement, measure
from specprune_ros.analysis.output import (
    caption,
    counted,
    progress_bar,
    provenance,
    say_written,
    stream_facts,
    write_csv,
    write_json,
)
from specprune_ros.analysis.reports import write_compare_report
from specprune_ros.analysis.writing import check_output_file
from specprune_ros.errors import ConfigurationError, MethodUnavailable
from specprune_ros.policy import Policy
from specprune_ros.pruning.registry import known_methods, make_pruner

DENSE = "off"
_CSV_SCALARS = (
    "queries", "dense_queries", "fine_share", "kept_visual_mean", "kept_visual_last_layer",
    "flops", "flops_ratio", "flops_ratio_steady", "cpu_ms_median", "cpu_ms_median_steady",
    "wall_ms_median", "action_l1_chunk", "action_l1_chunk_max", "action_l1_first",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", default="all", metavar="all|a,b,c",
                        help="methods by name; 'all' takes every one that is registered")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="results")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="one line per method as well")
    parser.add_argument("--report", type=Path, metavar="FILE", help="one HTML file, too")
    add_stream_arguments(parser)


def run(args: argparse.Namespace) -> int:
    names = method_names(args.methods)
    for path in filter(None, (args.json, args.csv, args.report)):
        check_output_file(path)
    inputs = load_inputs(args)
    found = compare(inputs, names)
    results = {name: measurement.summary() for name, measurement in found.items()}
    document = {**provenance(args, "compare"), **stream_facts(inputs), "methods": results}
    written = [write_json(args.json, document)]
    if args.csv:
        written.append(write_csv(args.csv, csv_rows(results)))
    n = f"{counted(inputs.queries, 'query')} of {counted(len(inputs.recordings), 'stream')}"
    text = caption(inputs.policy, inputs.checkpoint, n)
    if args.report:
        written.append(write_compare_report(args.report, document, ("method", *_COLUMNS),
                                            table_rows(results), _LEGEND, text))
    console = Console()
    console.print(table(results))
    console.print(_LEGEND, highlight=False)
    for name, result in results.items():
        if "unavailable" in result:
            console.print(f"{name} is not available: {result['unavailable']}", markup=False)
    console.print(text, highlight=False)
    say_written(written)
    return 0


def method_names(text: str) -> list[str]:
    """``all``, or names separated by commas. Raises ConfigurationError for an unknown one."""
    known = known_methods()
    if text == "all":
        return list(known)
    names = list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigurationError(
            f"--methods {text!r}: {'unknown ' + ', '.join(unknown) if unknown else 'no method'}; "
            f"known: all, {', '.join(known)}"
        )
    return names


def compare(inputs: Inputs, names: list[str]) -> dict[str, Measurement]:
    """Measure methods by name, in the order given; a method that cannot run says why."""
    policies: dict[str, Policy] = {}
    unavailable: dict[str, Measurement] = {}
    for name in names:
        try:
            policies[name] = inputs.policy.with_pruning(make_pruner(name))
        except MethodUnavailable as error:
            unavailable[name] = Measurement(unavailable=str(error))
    with progress_bar("comparing", inputs.queries * len(policies)) as progress:
        found = measure(inputs.policy, policies, inputs.recordings, inputs.every,
                        inputs.max_queries, progress)
    return {name: found.get(name) or unavailable[name] for name in names}


def csv_rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per method; the tokens of each layer have columns of their own."""
    layers = max((len(r.get("kept_visual_per_layer", ())) for r in results.values()), default=0)
    cameras = sorted({c for r in results.values() for c in r.get("kept_visual_per_camera", ())})
    rows = []
    for name, result in results.items():
        row = {"method": name, "unavailable": result.get("unavailable", "")}
        row |= {key: result.get(key) for key in _CSV_SCALARS}
        kept = result.get("kept_visual_per_layer") or [None] * layers
        row |= {f"kept_visual_layer_{layer}": value for layer, value in enumerate(kept)}
        for camera in cameras:
            per_camera = result.get("kept_visual_per_camera", {}).get(camera)
            row[f"kept_{camera}_last_layer"] = per_camera[-1] if per_camera else None
        rows.append(row)
    return rows


def table(results: dict[str, dict[str, Any]]) -> Table:
    """For the terminal, within 80 columns. Why a method is not available is not said here."""
    shown = Table(title="methods against dense on the same observations", box=box.SIMPLE_HEAD,
                  padding=(0, 1, 0, 0))
    shown.add_column("method", no_wrap=True)
    for head in _COLUMNS:
        # If anything must be narrower, then the column of many numbers, never the names.
        shown.add_column(head, justify="right", no_wrap=head != "per camera", overflow="fold")
    for row in table_rows(results):
        shown.add_row(*row)
    return shown


def table_rows(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """One row per method: its name, then _COLUMNS."""
    rows = []
    for name, r in results.items():
        if "unavailable" in r:
            rows.append([name, *"-" * len(_COLUMNS)])
            continue
        steady = r["flops_ratio_steady"]
        per_camera = [f"{kept[-1]:.0f}" for kept in r["kept_visual_per_camera"].values()]
        rows.append([
            name,
            f"{r['kept_visual_last_layer']:.1f}",
            "+".join(per_camera),
            f"{r['flops_ratio']:.3f}",
            "-" if steady is None else f"{steady:.3f}",
            f"{r['cpu_ms_median']:.1f}",
            f"{r['action_l1_chunk']:.4f}",
            f"{r['action_l1_first']:.4f}",
        ])
    return rows


_COLUMNS = ("tokens", "per camera", "FLOPs", "pruned", "CPU ms", "L1", "L1 1st")
_LEGEND = (
    "tokens: visual tokens that enter the last layer (of a method that reuses some: those it "
    "computes), and per camera. FLOPs: decoder, over dense; "
    "pruned: without the dense queries of a method. CPU ms: median query. L1: mean absolute "
    "difference from the dense actions in normalised units, over the chunk and its first action."
)
