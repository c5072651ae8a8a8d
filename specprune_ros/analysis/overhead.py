"""``specprune analyze overhead``: what selection costs, by itself and inside a query."""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from specprune_ros.analysis.inputs import Inputs, add_stream_arguments, load_inputs
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
from specprune_ros.analysis.overhead_probe import IsolationPruner, TimedPruner
from specprune_ros.analysis.plots import COLOURS, figure, save
from specprune_ros.analysis.recording import Recording
from specprune_ros.analysis.replay import query_count, replay
from specprune_ros.analysis.sweep import add_preset_argument, base_config
from specprune_ros.analysis.threads import one_thread
from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.vla.openvla_oft.preprocess import prepare_image

RESOLUTIONS = (224, 256, 320, 480, 640)
ISOLATED = ("frame preparation", "frame comparison", "scoring", "selection", "gather")
IN_QUERY = ("frame preparation", "frame comparison", "scoring", "selection", "gather", "update")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resolutions", type=int, nargs="+", default=list(RESOLUTIONS),
                        metavar="PX", help="edges of the camera pictures; streams are resized")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of isolated parts")
    add_preset_argument(parser)
    add_stream_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if min(args.resolutions) < 32 or args.repeats < 1:
        raise ConfigurationError("--resolutions must be >= 32 px, --repeats >= 1")
    inputs = load_inputs(args)
    config = base_config(args)
    now, clock = stopwatch(inputs.policy)
    sizes = sorted(set(args.resolutions))
    results = []
    with progress_bar("overhead", len(sizes)) as progress, one_thread():
        for size in sizes:
            streams = [resized(recording, size) for recording in inputs.recordings]
            sized = replace(inputs, recordings=streams)
            results.append({
                "resolution": size,
                "isolated_ms": isolated(sized, config, args.repeats, now),
                **in_query(sized, config, now),
            })
            progress()
    document = {
        **provenance(args, "analyze overhead"), **stream_facts(inputs),
        "preset": config.name, "clock": clock, "resolutions": results,
    }
    out = args.out / "overhead"
    text = caption(inputs.policy, inputs.checkpoint,
                   f"{counted(inputs.queries, 'query')} per resolution; {clock}")
    written = [
        write_json(out.with_suffix(".json"), document),
        write_csv(out.with_suffix(".csv"), [_row(result) for result in results]),
        _plot(out.with_suffix(".png"), results, text),
    ]
    say_written(written)
    return 0


def stopwatch(policy: Policy) -> tuple[Callable[[], float], str]:
    """Seconds so far, and what they are: an accelerator's work needs waiting for."""
    if policy.model.device.type == "cuda":
        def waited() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()
        return waited, "wall time, synchronised"
    return time.process_time, "CPU time (process_time), one thread"


def resized(recording: Recording, size: int) -> Recording:
    """The recording with pictures of size x size px."""
    if recording.frames.shape[2:4] == (size, size):
        return recording
    frames = [[cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in step]
              for step in recording.frames]
    return replace(recording, frames=np.array(frames))


def isolated(
    inputs: Inputs, config: SpecPruneConfig, repeats: int, now: Callable[[], float]
) -> dict[str, float]:
    """Median milliseconds of each part alone, on the tensors of a real dense query.

    Preparation is that of one frame set; comparison has two reference frames; scoring, selection
    and gather are those of one layer, after the first one.
    """
    recording = inputs.recordings[0]
    size = inputs.policy.model.config.image_size
    images = list(recording.images(0).values())
    prepare = timed(lambda: [prepare_image(image, size) for image in images], repeats, now)
    pruner = IsolationPruner(config, repeats, now)
    policy = inputs.policy.with_pruning(pruner)
    for number, _ in enumerate(replay(policy, recording, inputs.every)):
        if number == 1:  # the first query has nothing to be compared with
            break
    return {"frame preparation": prepare} | {
        part: float(np.median(pruner.ms[part])) if pruner.ms[part] else None
        for part in ISOLATED[1:]
    }


def timed(work: Callable[[], object], repeats: int, now: Callable[[], float]) -> float:
    """Median milliseconds; the first run does not count."""
    work()
    times = []
    for _ in range(repeats):
        began = now()
        work()
        times.append(1e3 * (now() - began))
    return float(np.median(times))


@dataclass(frozen=True)
class _Timed:
    total: float
    parts: dict[str, float]


def in_query(
    inputs: Inputs, config: SpecPruneConfig, now: Callable[[], float]
) -> dict[str, Any]:
    """Median milliseconds of the parts of pruned queries, of whole ones, and of dense ones.

    Preparation covers the frames of the query and those they are compared with.
    """
    pruner = TimedPruner(config, now)
    queries = _timed_queries(inputs, inputs.policy.with_pruning(pruner), pruner, now)
    plain = TimedPruner("off", now)
    dense = _timed_queries(inputs, inputs.policy.with_pruning(plain), plain, now)
    parts = {p: float(np.median([q.parts[p] for q in queries])) for p in IN_QUERY}
    total = float(np.median([q.total for q in queries]))
    selecting = sum(ms for part, ms in parts.items() if part != "frame preparation")
    return {
        "in_query_ms": parts,
        "query_ms": total,
        "dense_query_ms": float(np.median([q.total for q in dense])),
        "pruned_queries": len(queries),
        "selection_share": selecting / total,
    }


def _timed_queries(
    inputs: Inputs, policy: Policy, pruner: TimedPruner, now: Callable[[], float]
) -> list[_Timed]:
    """Queries without those that are dense on purpose, unless there is no other."""
    found: list[tuple[bool, _Timed]] = []
    for recording in inputs.recordings:
        wanted = query_count(recording, inputs.every)
        wanted = min(wanted, inputs.max_queries or wanted)
        episode = policy.make_episode()
        for number in range(wanted):
            step = number * inputs.every
            for between in range(max(0, step - inputs.every + 1), step):
                policy.observe(recording.images(between), float(recording.stamps[between]),
                               recording.twist(between), episode=episode)
            began = now()
            chunk = policy.predict(recording.observation(step, policy.uses_proprio), episode)
            total = 1e3 * (now() - began)
            parts = {p: 1e3 * pruner.seconds[p] for p in IN_QUERY[1:]}
            parts["frame preparation"] = 1e3 * (pruner.began - began)
            found.append((chunk.report.dense_refresh, _Timed(total, parts)))
    pruned = [query for dense, query in found if not dense]
    return pruned or [query for _, query in found]


def _row(result: dict[str, Any]) -> dict[str, Any]:
    def columns(prefix: str, parts: dict[str, Any]) -> dict[str, Any]:
        return {f"{prefix}_{p.replace(' ', '_')}_ms": ms for p, ms in parts.items()}

    return {
        "resolution": result["resolution"],
        **columns("isolated", result["isolated_ms"]),
        **columns("in_query", result["in_query_ms"]),
        **{k: result[k] for k in ("query_ms", "dense_query_ms", "selection_share",
                                  "pruned_queries")},
    }


def _plot(path: Path, results: Sequence[dict[str, Any]], text: str) -> Path:
    drawn, (alone, inside, whole) = figure(1, 3, 15.0, 5.4)
    labels = [str(result["resolution"]) for result in results]
    x = np.arange(len(results))
    # By themselves the parts differ by orders of magnitude, so side by side on a logarithmic axis.
    width = 0.8 / len(ISOLATED)
    for index, (colour, part) in enumerate(zip(COLOURS, ISOLATED)):
        values = [result["isolated_ms"][part] or np.nan for result in results]
        alone.bar(x + (index - (len(ISOLATED) - 1) / 2) * width, values, width, color=colour,
                  label=part)
    alone.set(title="Parts by themselves, once", yscale="log")
    alone.set_xticks(x, labels)
    bottom = np.zeros(len(results))
    for colour, part in zip(COLOURS, IN_QUERY):
        values = np.array([result["in_query_ms"][part] for result in results])
        inside.bar(labels, values, bottom=bottom, color=colour, label=part)
        bottom += values
    inside.set(title="Parts inside a pruned query")
    for axis in (alone, inside):
        axis.margins(y=0.4)
        axis.legend(loc="upper left", ncols=2)
    whole.bar(x - 0.2, [result["dense_query_ms"] for result in results], 0.4, color=COLOURS[5],
              label="dense")
    whole.bar(x + 0.2, [result["query_ms"] for result in results], 0.4, color=COLOURS[0],
              label="pruned")
    whole.set_xticks(x, labels)
    whole.set(title="Whole query")
    whole.margins(y=0.25)
    whole.legend()
    for axis in (alone, inside, whole):
        axis.set(xlabel="edge of the camera pictures (px)", ylabel="median time (ms)")
        axis.grid(axis="x", visible=False)
    return save(drawn, path, "Cost of selection", text)
