"""``specprune bench``: dense and pruned queries side by side, on this device."""
from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from specprune_ros.analysis.output import progress_bar, provenance, say_written, write_json
from specprune_ros.analysis.threads import numeric_threads
from specprune_ros.analysis.writing import check_output_file, check_output_folder
from specprune_ros.bench import measure, selection
from specprune_ros.bench.arms import ARMS, Arm, choose, policies
from specprune_ros.bench.models import SHAPES, load
from specprune_ros.bench.streams import SPEEDS, Stream, Workload, instruction_of, make_recordings
from specprune_ros.policy import FixedSettings, Policy
from specprune_ros.pruning.presets import preset
from specprune_ros.runtime.choice import RUNTIMES, Runtime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="small", metavar="NAME|DIR",
                        help=f"{', '.join(SHAPES)}: random weights of that shape, made on the "
                             "device; or a checkpoint directory")
    parser.add_argument("--arms", default="a,a2,b,c,d", help="; ".join(
        f"{arm.name}: {arm.text}" for arm in ARMS.values()))
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"),
                        help="without it: float32 on cpu, as evaluations run, bfloat16 on cuda; "
                             "auto: bfloat16 where the processor has instructions for it")
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto", help="of the arms b and d")
    parser.add_argument("--scene", choices=("static", "moving"), default="static",
                        help="static: no picture changes within an episode")
    parser.add_argument("--mode", choices=tuple(SPEEDS), default="coarse",
                        help="of the controller: a moving arm is coarse, a resting one fine")
    parser.add_argument("--cameras", type=int, choices=(1, 2, 3), default=2)
    parser.add_argument("--size", type=int, default=256, help="edge of the camera pictures, px")
    parser.add_argument("--prompt-tokens", type=int, default=34, help="after BOS")
    parser.add_argument("--queries", type=int, metavar="N",
                        help="timed queries of each arm (without it: 9 on cpu, 100 on cuda)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the numerics")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="folder for the pictures")


def run(args: argparse.Namespace) -> int:
    arms = choose(args.arms)
    if args.json:
        check_output_file(args.json)
    if args.plot:
        check_output_folder(args.plot)
    with numeric_threads(args.threads):
        document = bench(args, arms)
    written = []
    if args.json:
        written.append(write_json(args.json, document))
    show(document)
    say_written(written)
    return 0


def bench(args: argparse.Namespace, arms: list[Arm]) -> dict[str, Any]:
    """Measure; the document that ``--json`` writes."""
    dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    loaded = load(args.model, args.device, dtype, args.seed)
    runtime = Runtime(loaded.model, args.runtime, FixedSettings(prompt_tile=1))

    def make(chosen: Any, pruning: str) -> Policy:
        return Policy(loaded, None, True, True, pruning, 8, 0.05, chosen)

    by_arm = policies(loaded, arms, runtime, make)
    any_policy = next(iter(by_arm.values()))
    workload = Workload(args.scene, args.mode, args.size, args.cameras,
                        instruction_of(any_policy, args.prompt_tokens), args.seed)
    recordings = make_recordings(workload)
    streams = {name: Stream(policy, workload, recordings) for name, policy in by_arm.items()}
    probe = None
    if "d" in by_arm and selection.can_probe(runtime, by_arm["d"]):
        probe = selection.ProbedPolicy(by_arm["d"])
        streams[measure.PROBE] = Stream(probe.policy, workload, recordings)
    cuda = args.device == "cuda"
    queries, warm_ups = args.queries or (100 if cuda else 9), 20 if cuda else 0
    total = (queries + max(warm_ups, 6)) * len(streams)
    with progress_bar("bench", total) as progress:
        times = measure.run(streams, queries, warm_ups, progress, probe and probe.note)
    depth = any_policy.decoder_shape.layers
    document = {
        **provenance(args, "bench"),
        "device": args.device,
        "model": {"name": args.model, "trained": any_policy.trained, "layers": depth,
                  "hidden": any_policy.decoder_shape.hidden,
                  "dtype": str(loaded.model.dtype).removeprefix("torch.")},
        "workload": {"scene": args.scene, "mode": args.mode, "cameras": args.cameras,
                     "picture": args.size, "tokens": round(times[arms[0].name].rows[0][0]),
                     "sets": len(recordings)},
        "arms": {arm.name: {"text": arm.text, **summary(times[arm.name])} for arm in arms},
        "ratios": ratios(times),
        "selection_of_layer": None,
        "selection_of_query": None,
    }
    if probe is not None:
        config = preset("specprune")
        document |= selection.shares(probe.parts, config, depth, times)
    return document


def summary(times: measure.ArmTimes) -> dict[str, Any]:
    """One arm in plain numbers."""
    rows = np.mean(times.rows, axis=0)
    return {
        "runtime": times.runtime,
        "cpu_ms": measure.statistics(times.cpu),
        "query_cpu_ms": measure.statistics(times.query_cpu),
        "query_wall_ms": measure.statistics(times.wall),
        "cuda_ms": measure.statistics(times.cuda),
        "stages_ms": {stage: float(np.median(ms)) for stage, ms in times.stages.items()},
        "flops": float(np.mean(times.flops)),
        "tokens_per_layer": [float(n) for n in rows],
        "trimmed": float(np.mean(times.trimmed)),
        "filled": float(np.mean(times.filled)),
    }


def ratios(times: Mapping[str, measure.ArmTimes]) -> dict[str, float]:
    """Dense over pruned and slower over faster: time of the decoder, and its FLOPs."""
    found = {}
    medians = {name: float(np.median(t.cuda or t.cpu)) for name, t in times.items()}
    whole = {name: float(np.median(t.cuda or t.query_cpu)) for name, t in times.items()}
    for slow, fast in (("a", "a2"), ("a2", "b"), ("a2", "c"), ("b", "d"), ("a", "d")):
        if slow in times and fast in times:
            found[f"{slow}/{fast}"] = medians[slow] / medians[fast]
            found[f"query {slow}/{fast}"] = whole[slow] / whole[fast]
    if "d" in times:
        found["flops"] = float(np.mean(times["d"].dense_flops) / np.mean(times["d"].flops))
        if "b/d" in found:
            found["realised"] = found["b/d"] / found["flops"]
    return found


def show(document: Mapping[str, Any]) -> None:
    """The table on standard output."""
    table = Table(title=f"{document['model']['name']}, {document['device']}, "
                        f"{document['model']['dtype']}")
    for column in ("arm", "runtime", "decoder", "query", "GFLOP", "last layer"):
        table.add_column(column, justify="left" if column in ("arm", "runtime") else "right")
    for name, arm in document["arms"].items():
        decoder, query = arm["cpu_ms"], arm["cuda_ms"] or arm["query_cpu_ms"]
        table.add_row(f"{name}: {arm['text']}", arm["runtime"], f"{decoder['median']:.1f} ms",
                      f"{query['median']:.1f} ms", f"{arm['flops'] / 1e9:.1f}",
                      f"{arm['tokens_per_layer'][-1]:.0f}")
    console = Console(highlight=False)
    console.print(table)
    for name, value in document["ratios"].items():
        console.print(f"{name}: {value:.2f}")
    for name in ("selection_of_layer", "selection_of_query"):
        if document[name] is not None:
            console.print(f"{name}: {100 * document[name]:.1f} %")
