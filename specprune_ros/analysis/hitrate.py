"""``specprune analyze hitrate``: do early layers and the last query tell what will matter?"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from specprune_ros.analysis.plots import figure, save, style
from specprune_ros.analysis.probe import ROWS, AttentionScores, ProbePruner
from specprune_ros.analysis.replay import query_count, replay
from specprune_ros.analysis.sweep import add_preset_argument, base_config
from specprune_ros.analysis.threads import one_thread
from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.schedule import scale_layers
from specprune_ros.pruning.sets import split_evenly, top_k
from specprune_ros.types import Mode

DEPTHS = (1, 2, 3)  # speculation layers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=int, default=20, metavar="K",
                        help="patches per camera that are compared")
    add_preset_argument(parser)
    add_stream_arguments(parser)


def run(args: argparse.Namespace) -> int:
    inputs = load_inputs(args)
    patches = inputs.policy.patches_per_camera
    if not 1 <= args.top_k <= patches:
        raise ConfigurationError(f"--top-k is {args.top_k}; a camera has 1 to {patches} patches")
    per_recording = probe(inputs)
    config = base_config(args)
    results = statistics(per_recording, args.top_k, config)
    chance = args.top_k / patches
    document = {
        **provenance(args, "analyze hitrate"), **stream_facts(inputs),
        "top_k": args.top_k,
        "chance": chance,
        "chance_of_depth": {str(d): 1 - (1 - chance) ** d for d in DEPTHS},
        "global_set": {"preset": config.name, "rows": config.static.global_rows,
                       "layers": scale_layers(config.static.global_layers,
                                              inputs.policy.decoder_shape.layers)},
        **results,
    }
    out = args.out / "hitrate"
    text = caption(inputs.policy, inputs.checkpoint,
                   f"{counted(inputs.queries, 'query')}, top {args.top_k} of {patches} patches")
    written = [
        write_json(out.with_suffix(".json"), document),
        write_csv(out.with_suffix(".csv"), csv_rows(results)),
        _plot(out.with_suffix(".png"), results, chance, text),
    ]
    say_written(written)
    return 0


def probe(inputs: Inputs) -> list[list[AttentionScores]]:
    """Scores of every query, per recording."""
    found: list[list[AttentionScores]] = []
    policy = inputs.policy.with_pruning(ProbePruner(lambda scores: found[-1].append(scores)))
    with progress_bar("probing", inputs.queries) as progress, one_thread():
        for recording in inputs.recordings:
            found.append([])
            wanted = query_count(recording, inputs.every)
            wanted = min(wanted, inputs.max_queries or wanted)
            for number, _ in enumerate(replay(policy, recording, inputs.every), 1):
                progress()
                if number == wanted:
                    break
    return found


def statistics(
    per_recording: Sequence[Sequence[AttentionScores]], k: int, config: SpecPruneConfig
) -> dict[str, Any]:
    """Overlaps and variances by kind of rows and camera; lists are per layer.

    last_layer_overlap: share of the last layer's top-k that a layer's own top-k holds.
    speculation_hit: the same for the union of the first 1, 2, 3 layers' top-k.
    previous_query_overlap: share of a layer's top-k that its top-k of the previous query held.
    head_variance, head_cv: variance across heads of a patch's score, and standard deviation over
    mean, both averaged over patches and queries.
    global_set_overlap: share of this query's V_global that was in the previous one's, per camera.
    Figures between queries are None where no recording has two of the same cameras.
    """
    cameras = sorted({c for queries in per_recording for q in queries for c in q.layout.cameras},
                     key=lambda name: (name != "primary", name))
    found: dict[str, Any] = {"rows": {}}
    for kind in ROWS:
        found["rows"][kind] = {
            camera: _camera_statistics(per_recording, kind, camera, k) for camera in cameras
        }
    found["global_set_overlap"] = {
        camera: _global_overlap(per_recording, camera, config) for camera in cameras
    }
    return found


def _camera_statistics(
    per_recording: Sequence[Sequence[AttentionScores]], kind: str, camera: str, k: int
) -> dict[str, Any]:
    last, depth, previous, variance, variation = [], [], [], [], []
    for queries in per_recording:
        before = None
        for query in queries:
            if camera not in query.layout.cameras:
                before = None
                continue
            heads = query.scores[kind][:, :, query.layout.cameras.index(camera)].double()
            chosen = torch.stack([top_k(row, k) for row in heads.mean(1)])  # [layers, N]
            last.append(_overlap(chosen, chosen[-1]))
            depth.append([float(_overlap(chosen[:d].any(0), chosen[-1])) for d in DEPTHS])
            if before is not None:
                previous.append(_overlap(before, chosen))
            before = chosen
            spread = heads.var(1, unbiased=False)  # [layers, N]
            variance.append(spread.mean(1).numpy())
            variation.append((spread.sqrt() / heads.mean(1).clamp_min(1e-30)).mean(1).numpy())
    return {
        "last_layer_overlap": np.mean(last, 0).tolist(),
        "speculation_hit": dict(zip(map(str, DEPTHS), np.mean(depth, 0).tolist())),
        "previous_query_overlap": np.mean(previous, 0).tolist() if previous else None,
        "head_variance": np.mean(variance, 0).tolist(),
        "head_cv": np.mean(variation, 0).tolist(),
    }


def _overlap(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """|a & b| / |b| of masks [..., N]."""
    return ((a & b).sum(-1) / b.sum(-1)).double().numpy()


def global_set(query: AttentionScores, camera: str, config: SpecPruneConfig) -> torch.Tensor:
    """V_global [N] that the next query would take from this one, in coarse mode."""
    scores = query.scores[config.static.global_rows].mean(1)[:, query.layout.cameras.index(camera)]
    layers = scale_layers(config.static.global_layers, len(scores))
    shares = split_evenly(config.budgets.of(camera, Mode.COARSE).global_, len(layers))
    chosen = [top_k(scores[layer].double(), share) for layer, share in zip(layers, shares)]
    return torch.stack(chosen).any(0)


def _global_overlap(
    per_recording: Sequence[Sequence[AttentionScores]], camera: str, config: SpecPruneConfig
) -> float | None:
    found = []
    for queries in per_recording:
        sets = [global_set(q, camera, config) for q in queries if camera in q.layout.cameras]
        found += [float(_overlap(old, new)) for old, new in zip(sets, sets[1:])]
    return float(np.mean(found)) if found else None


def csv_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per kind of rows, camera and layer."""
    rows = []
    for kind, cameras in results["rows"].items():
        for camera, values in cameras.items():
            for layer, overlap in enumerate(values["last_layer_overlap"]):
                previous = values["previous_query_overlap"]
                rows.append({
                    "rows": kind, "camera": camera, "layer": layer,
                    "last_layer_overlap": overlap,
                    "previous_query_overlap": previous[layer] if previous else None,
                    "head_variance": values["head_variance"][layer],
                    "head_cv": values["head_cv"][layer],
                })
    return rows


def _plot(path: Path, results: dict[str, Any], chance: float, text: str) -> Path:
    drawn, (last, depth, previous, heads) = figure(2, 2, 12.0, 9.0)
    index = 0
    for kind, cameras in results["rows"].items():
        for camera, values in cameras.items():
            layers = range(len(values["last_layer_overlap"]))
            line = {"label": f"{camera}, {kind} rows", **style(index)}
            last.plot(layers, [100 * v for v in values["last_layer_overlap"]], **line)
            depth.plot(DEPTHS, [100 * v for v in values["speculation_hit"].values()], **line)
            if values["previous_query_overlap"]:
                previous.plot(layers, [100 * v for v in values["previous_query_overlap"]], **line)
            heads.plot(layers, values["head_cv"], **line)
            index += 1
    by_chance = {"color": "grey", "linestyle": ":", "label": "chance"}
    for axis in (last, previous):
        axis.axhline(100 * chance, **by_chance)
    depth.plot(DEPTHS, [100 * (1 - (1 - chance) ** d) for d in DEPTHS], **by_chance)
    for axis in (last, depth, previous):
        axis.set_ylim(-2, 105)
    last.set(title="A layer's top-k and the last layer's",
             ylabel="share of the last layer's top-k (%)")
    depth.set(title="Top-k of the first layers together and the last layer's",
              ylabel="share of the last layer's top-k (%)", xlabel="speculation layers")
    previous.set(title="A layer's top-k now and in the previous query", ylabel="share of top-k (%)")
    heads.set(title="Spread of scores across heads", ylabel="std / mean across heads",
              ylim=(0, None))
    for axis in (last, previous, heads):
        axis.set_xlabel("decoder layer")
    for axis in (last, depth, previous, heads):
        axis.locator_params(axis="x", integer=True)
    last.legend(loc="lower right")
    return save(drawn, path, "Hit rates of attention", text)
