"""Times of arms in plain numbers, and the ratios between them."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from specprune_ros.bench.measure import ArmTimes, statistics

_PAIRS = (("a", "a2"), ("a2", "b"), ("a2", "c"), ("b", "d"), ("a", "d"),
          ("b", "b8"), ("d", "d8"), ("b8", "d8"))


def arm_summary(
    times: ArmTimes, bounds: tuple[float, float | None], cuda: bool
) -> dict[str, Any]:
    """One arm. bounds: FLOPs of a whole query, and its roofline in ms, if that is known."""
    flops, bound = bounds
    query = times.cuda if cuda else times.query_cpu
    median = float(np.median(query))
    return {
        "runtime": times.runtime,
        "cpu_ms": statistics(times.cpu),
        "query_cpu_ms": statistics(times.query_cpu),
        "query_wall_ms": statistics(times.wall),
        "cuda_ms": statistics(times.cuda),
        "stages_ms": {stage: float(np.median(ms)) for stage, ms in times.stages.items()},
        "flops": float(np.mean(times.flops)),
        "query_flops": flops,
        "tflops_per_s": flops / median / 1e9,
        "roofline_ms": bound,
        "of_roofline": None if bound is None else bound / median,
        "tokens_per_layer": np.mean(times.rows, axis=0).tolist(),
        "trimmed": float(np.mean(times.trimmed)),
        "filled": float(np.mean(times.filled)),
        "peak_memory_mib": None if times.peak_memory is None else times.peak_memory / 2**20,
    }


def withheld(arms: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why no gain of pruning is told: a slow dense arm would make it large."""
    if "b" not in arms or arms["b"]["of_roofline"] >= 0.5:
        return None
    b = arms["b"]
    return (f"dense (b) takes {b['cuda_ms']['median']:.1f} ms, more than twice its roofline of "
            f"{b['roofline_ms']:.1f} ms: b/d would flatter pruning")


def ratios(times: Mapping[str, ArmTimes], reason: str | None = None) -> dict[str, float | None]:
    """Slower over faster: medians of the ratios within each round, so that a machine that is slow
    for a while is slow for both. On the CPU plain names are of the decoder, ``query ...`` of the
    query; on CUDA both are of the query. flops: dense over pruned, decoder. reason: why b/d is
    withheld.
    """
    found: dict[str, float | None] = {}
    for slow, fast in _PAIRS:
        if slow in times and fast in times:
            part, whole = (ratio(times[slow], times[fast], w) for w in (False, True))
            hidden = reason is not None and (slow, fast) == ("b", "d")
            found[f"{slow}/{fast}"] = None if hidden else part
            found[f"query {slow}/{fast}"] = None if hidden else whole
    if "d" in times:
        d = times["d"]
        found["flops"] = float(np.mean(d.dense_flops) / np.mean(d.flops))
        if found.get("b/d") is not None:
            found["realised"] = found["b/d"] / found["flops"]
    return found


def ratio(slow: ArmTimes, fast: ArmTimes, whole: bool) -> float:
    """Median over the rounds. whole: of the query, not of the decoder; on CUDA it always is."""
    def rounds(times: ArmTimes) -> np.ndarray:
        return np.asarray(times.cuda or (times.query_cpu if whole else times.cpu))

    return float(np.median(rounds(slow) / rounds(fast)))
