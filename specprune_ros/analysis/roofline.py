"""``specprune analyze roofline``: which stages a device computes, and which it only feeds."""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specprune_ros.analysis.devices import DEVICES, THIS_CPU, Device, find_devices
from specprune_ros.analysis.inputs import (
    add_stream_arguments,
    checkpoint_path,
    load_dense,
    load_inputs,
)
from specprune_ros.analysis.measure import measure
from specprune_ros.analysis.output import (
    caption,
    checkpoint_facts,
    provenance,
    say_written,
    stream_facts,
    write_csv,
    write_json,
)
from specprune_ros.analysis.plots import COLOURS, figure, save
from specprune_ros.analysis.sweep import add_preset_argument, base_config
from specprune_ros.analysis.threads import one_thread
from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.schedule import scale_layers
from specprune_ros.runtime.accounting import Cost, DecoderShape, QueryShape, openvla_oft_7b

_FLOOR = 60  # visual tokens that the layer-wise schedule leaves
_CONTROL_PERIOD = 0.05  # s; has no influence on cost


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=("7b", "checkpoint"), default="7b",
                        help="sizes: the published 7B checkpoints in closed form, or --checkpoint; "
                             "a stream adds the rows that --preset keeps there")
    parser.add_argument("--devices", nargs="+", metavar="NAME", default=list(DEVICES),
                        help=f"{', '.join(DEVICES)}; or {THIS_CPU}: this machine, measured")
    parser.add_argument("--cameras", type=int, default=2, help="camera pictures per query")
    parser.add_argument("--prompt-tokens", type=int, default=34, help="after BOS")
    add_preset_argument(parser)
    add_stream_arguments(parser, required=False)


def run(args: argparse.Namespace) -> int:
    if args.cameras < 1 or args.prompt_tokens < 1:
        raise ConfigurationError("--cameras and --prompt-tokens must be >= 1")
    streamed = args.recording is not None or args.synthetic is not None
    if streamed and args.model == "7b":
        raise ConfigurationError("rows of a stream need --model checkpoint: the closed form of "
                                 "the 7B model has no weights to run")
    with one_thread():
        devices = find_devices(args.devices)
    cameras, proprio = args.cameras, True
    measured: dict[str, list[int]] = {}
    if args.model == "7b":
        shape, facts = openvla_oft_7b(), {"checkpoint": None, "n": None}
        text = "OpenVLA-OFT 7B in closed form"
    else:
        facts, shape, text, cameras, measured = _checkpoint(args, streamed)
        proprio = shape.proprio is not None
    actions = args.chunk_length * shape.action_dim
    rest = 2 + proprio + args.prompt_tokens + actions
    visual = cameras * shape.dino.patches
    rows = {
        label: [rest + n for n in kept]
        for label, kept in schedules(visual, shape.decoder.layers).items()
    } | measured
    found = {
        label: schedule_costs(shape, kept, cameras, proprio, actions, devices)
        for label, kept in rows.items()
    }
    document = {
        **provenance(args, "analyze roofline"), **facts,
        "model": args.model,
        "query": {"cameras": cameras, "visual_tokens": visual, "other_tokens": rest},
        "devices": {
            d.name: {"peak_flops": d.peak, "bandwidth_bytes": d.bandwidth, "ridge": d.ridge,
                     "ridge_rows": ridge_rows(shape.decoder, d), "kind": d.kind,
                     "source": d.source, "element_bytes": d.element_size}
            for d in devices
        },
        "schedules": found,
    }
    out = args.out / "roofline"
    text += f"; {visual} visual and {rest} other tokens"
    written = [
        write_json(out.with_suffix(".json"), document),
        write_csv(out.with_suffix(".csv"), csv_rows(found)),
        _plot(out.with_suffix(".png"), found, devices, text),
    ]
    say_written(written)
    return 0


def _checkpoint(
    args: argparse.Namespace, streamed: bool
) -> tuple[dict[str, Any], QueryShape, str, int, dict[str, list[int]]]:
    """What the document says of it, its sizes, a caption, cameras, and rows kept on a stream."""
    if not streamed:
        policy = load_dense(args, _CONTROL_PERIOD)
        path = checkpoint_path(args)
        facts = {"checkpoint": checkpoint_facts(policy, path), "n": None}
        return facts, policy.query_shape, caption(policy, path, "0 queries"), args.cameras, {}
    inputs = load_inputs(args)
    cameras = len(inputs.recordings[0].cameras)  # those of all
    config = base_config(args)
    policies = {config.name: inputs.policy.with_pruning(config)}
    found = measure(inputs.policy, policies, inputs.recordings, inputs.every, inputs.max_queries)
    rows = [round(n) for n in found[config.name].summary()["rows_per_layer"]]
    text = caption(inputs.policy, inputs.checkpoint, f"{inputs.queries} queries")
    label = f"{config.name}, mean on the stream"
    return stream_facts(inputs), inputs.policy.query_shape, text, cameras, {label: rows}


def schedules(visual: int, depth: int) -> dict[str, list[int]]:
    """Visual tokens per layer; layers as for a decoder of 32, scaled to ``depth``."""
    stages = scale_layers((5, 10, 15, 20, 25), depth)

    def from_layer_2(kept: int) -> list[int]:
        return ([visual, visual] + [kept] * depth)[:depth]

    third = round(visual / 3)
    shrinking, kept = [], third
    for layer in range(depth):
        shrinking.append(visual if layer < 2 else kept)
        if layer in stages:
            kept = max(min(kept, _FLOOR), int(0.8 * kept))
    early = ([visual, round(visual * 3 / 8)] + [visual // 4] * depth)[:depth]
    return {
        "dense": [visual] * depth,
        "1/2 from layer 2": from_layer_2(round(visual / 2)),
        "1/3 from layer 2": from_layer_2(third),
        "1/3, then x0.8 at 5 layers": shrinking,
        "3/8 from layer 1, then 1/4": early,
        "no visual from layer 2": from_layer_2(0),
    }


def schedule_costs(
    shape: QueryShape, rows: Sequence[int], cameras: int, proprio: bool, actions: int,
    devices: Sequence[Device],
) -> dict[str, Any]:
    """Cost and bounds of each stage of a query; decoder layers of equal rows are one stage."""
    parts = dict(shape.cost(rows, rows, cameras, proprio, actions))
    del parts["decoder"]
    stages: dict[str, tuple[Cost, int]] = {name: (cost, 1) for name, cost in parts.items()}
    for n in sorted(set(rows), reverse=True):
        stages[f"decoder, {n} rows"] = (shape.decoder.layer_cost(n, n), list(rows).count(n))
    described = {name: _stage(cost, times, devices) for name, (cost, times) in stages.items()}
    return {
        "rows_per_layer": list(rows),
        "flops": sum(stage["flops"] for stage in described.values()),
        "bound_ms": {
            d.name: sum(stage["bound_ms"][d.name] for stage in described.values())
            for d in devices
        },
        "stages": described,
    }


def _stage(cost: Cost, times: int, devices: Sequence[Device]) -> dict[str, Any]:
    """A stage that runs ``times`` times, each time with its own weights."""
    size = devices[0].element_size  # the same for all, see find_devices
    moved, intensity = cost.bytes(size), cost.intensity(size)
    return {
        "times": times,
        "flops": times * cost.flops,
        "bytes": times * moved,
        "intensity": intensity,
        "bound_ms": {d.name: 1e3 * times * d.seconds(cost.flops, moved) for d in devices},
        "limit": {d.name: "compute" if intensity >= d.ridge else "memory" for d in devices},
    }


def ridge_rows(decoder: DecoderShape, device: Device, longest: int = 1 << 16) -> int | None:
    """Fewest rows with which a decoder layer is limited by arithmetic; None if no number does."""
    if decoder.layer_cost(longest, longest).intensity(device.element_size) < device.ridge:
        return None
    low, high = 0, longest  # intensity rises with the rows
    while high - low > 1:
        middle = (low + high) // 2
        enough = decoder.layer_cost(middle, middle).intensity(device.element_size) >= device.ridge
        low, high = (low, middle) if enough else (middle, high)
    return high


def csv_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per schedule and stage."""
    rows = []
    for schedule, result in found.items():
        for name, stage in result["stages"].items():
            row = {"schedule": schedule, "stage": name}
            row |= {k: stage[k] for k in ("times", "flops", "bytes", "intensity")}
            row |= {f"bound_ms_{device}": ms for device, ms in stage["bound_ms"].items()}
            rows.append(row)
    return rows


def _plot(path: Path, found: Mapping[str, Any], devices: Sequence[Device], text: str) -> Path:
    drawn, (roof, bounds) = figure(1, 2, 15.0, 7.5)
    points = {name: stage["intensity"] for result in found.values()
              for name, stage in result["stages"].items()}
    names = sorted(points, key=points.get)
    roof.plot([points[name] for name in names], names, "o", color="black", markersize=6,
              label="stage")
    for index, device in enumerate(devices):
        roof.axvline(device.ridge, color=_colour(index), linestyle=("-", "--")[index % 2],
                     label=f"ridge of {device.name} ({device.kind}): {device.ridge:.0f}")
    roof.set(xscale="log", xlabel="arithmetic intensity (FLOP/byte)",
             title="Stages right of a ridge are limited by arithmetic, left of it by memory")
    roof.legend(loc="upper left", fontsize=8)

    height = 0.8 / len(devices)
    places = np.arange(len(found))
    for index, device in enumerate(devices):
        values = [result["bound_ms"][device.name] for result in found.values()]
        bars = bounds.barh(places + (index - (len(devices) - 1) / 2) * height, values, height,
                           color=_colour(index), label=device.name)
        bounds.bar_label(bars, [f"{v:.3g}" for v in values], padding=2, fontsize=7)
    # Devices differ by orders of magnitude; the bars of one are best compared by their length.
    bounds.set(xscale="log" if len(devices) > 1 else "linear", xlabel="lower bound on a query (ms)",
               title="Bound on the whole query, by the visual tokens kept")
    bounds.set_yticks(places, list(found), fontsize=9)
    bounds.invert_yaxis()
    bounds.margins(x=0.1)
    bounds.grid(axis="y", visible=False)
    # Below the axes: bars reach everywhere inside them.
    bounds.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    return save(drawn, path, "Roofline of a query by stage", text)


def _colour(index: int) -> str:
    return (*COLOURS, "#8c564b")[index % (len(COLOURS) + 1)]
