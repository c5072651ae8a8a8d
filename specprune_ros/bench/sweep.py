"""Time over the number of tokens: of whole queries, and of one layer."""
from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from specprune_ros.analysis.devices import Device
from specprune_ros.bench.streams import SETS
from specprune_ros.policy import FixedSettings
from specprune_ros.pruning.base import PruneSession
from specprune_ros.pruning.given import GivenRows
from specprune_ros.runtime.choice import Runtime
from specprune_ros.runtime.graph import Captured, Direct
from specprune_ros.vla.openvla_oft.decoder import Decoder

if TYPE_CHECKING:
    from specprune_ros.bench.session import Bench

_KEPT = (1.0, 3 / 4, 1 / 2, 163 / 512, 1 / 4, 3 / 16, 1 / 8, 1 / 16, 0.0)  # share of the patches
_FROM_LAYER = 2
_STEP = 32  # rows, of the layers
_CPU_QUERIES, _CUDA_QUERIES = 3, 30


def query_sweep(bench: Bench, device: Device) -> list[dict[str, Any]]:
    """Queries that keep evenly spread patches from layer 2 on, nothing being scored."""
    layout = _layout(bench)
    runtime = Runtime(bench.loaded.model, bench.runtime_kind, FixedSettings(prompt_tile=1))
    others = [0, *range(layout.visual.stop, layout.length)]
    found = []
    for share in _KEPT:
        kept = round(share * layout.visual_tokens)
        patches = np.linspace(1, layout.visual_tokens, kept).round().astype(int).tolist()
        pruner = GivenRows({_FROM_LAYER: sorted({*others, *patches})} if share < 1 else {})
        times, rows = _query_times(bench, runtime, pruner)
        flops, bound = bench.bounds_of(rows, device)
        found.append({
            "kept_visual": kept, "rows": rows[-1], "ms": float(np.median(times)),
            "iqr_ms": float(np.subtract(*np.percentile(times, [75, 25]))),
            "roofline_ms": bound, "flops": flops,
        })
    return found


def _layout(bench: Bench) -> Any:
    policy = bench.any
    observation, _ = bench.stream(policy).ready(0)
    prompt = policy.inputs.prompt(observation.instruction)
    return policy.inputs.layout(bench.workload.names, prompt, policy.uses_proprio)


def _query_times(
    bench: Bench, runtime: Runtime, pruner: GivenRows
) -> tuple[list[float], list[int]]:
    policy = bench.policy(runtime, pruner)
    stream = bench.stream(policy)
    times, chunk = [], None
    repeats = _CUDA_QUERIES if bench.cuda else _CPU_QUERIES
    for number in range(SETS + repeats):
        observation, episode = stream.ready(number % SETS)
        if bench.cuda:
            torch.cuda.synchronize()
        began = time.process_time()
        chunk = policy.predict(observation, episode)
        elapsed = policy.clock.device_ms if bench.cuda else 1e3 * (time.process_time() - began)
        if number >= SETS:
            times.append(elapsed)
    return times, [len(positions) for positions in chunk.report.kept_positions]


def layer_sweep(bench: Bench, device: Device) -> list[dict[str, Any]]:
    """One decoder layer alone, over its rows; its roofline beside it."""
    decoder, shape = bench.loaded.model.decoder, bench.any.decoder_shape
    longest = -(-_layout(bench).length // _STEP) * _STEP
    found = []
    for rows in range(2 * _STEP, longest + 1, _STEP if bench.cuda else 4 * _STEP):
        cost = shape.layer_cost(rows, rows)
        bound = device.seconds(cost.flops, cost.bytes(device.element_size))
        found.append({
            "rows": rows, "ms": _layer_ms(decoder, rows, bench.cuda), "roofline_ms": 1e3 * bound,
        })
    return found


class _All(PruneSession):
    def __init__(self) -> None:
        pass


@torch.inference_mode()
def _layer_ms(decoder: Decoder, rows: int, cuda: bool) -> float:
    """Median; on CUDA as a graph, over weights of several layers so that no cache holds them."""
    weight = decoder.norm.weight
    hidden = torch.randn(1, rows, len(weight), device=weight.device).to(weight.dtype)
    layers = range(min(4, len(decoder.layers)))

    def run() -> torch.Tensor:
        return decoder.run_layers(hidden, layers, _All())

    runner = Captured(run, weight.device) if cuda else Direct(run)
    times = []
    for number in range(4 + (20 if cuda else 3)):
        if cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            runner.replay()
            end.record()
            end.synchronize()
            elapsed = start.elapsed_time(end)
        else:
            began = time.process_time()
            runner.replay()
            elapsed = 1e3 * (time.process_time() - began)
        if number >= 4:
            times.append(elapsed / len(layers))
    return float(np.median(times))
