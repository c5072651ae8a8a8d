"""From episode records to the figures of a method; plain numbers for JSON."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np

from specprune_ros.eval.methods import COPIES, DEFAULT, DENSE
from specprune_ros.eval.record import Record
from specprune_ros.eval.statistics import paired_difference, wilson_interval

# Of queries. Through ROS the CPU time is not known, and in process there is no way to the policy.
_TIMES = ("latency_ms", "cpu_ms", "observation_age_ms")


def summarize(
    records: Sequence[Record], copied: Sequence[Record] | None = None
) -> dict[str, Any]:
    """Figures of one method.

    Means of queries are over all queries of all episodes, dense refreshes and fine mode included.
    Keys end in their unit where they have one. copied: for a method that copies counts, the
    episodes that they come from.
    """
    if records and "unavailable" in records[0]:
        return {"unavailable": records[0]["unavailable"], "n": 0}
    n, successes = len(records), sum(r["success"] for r in records)
    kept = np.array(_all(records, "kept"))  # [queries, layers, cameras]
    per_layer = kept.mean(0)
    timing = [r["timing"] for r in records]
    summary = {
        "n": n,
        "successes": successes,
        "rate": successes / n,
        "ci95": wilson_interval(successes, n),
        **{name: _percentiles(_all(timing, name)) for name in _TIMES if name in timing[0]},
        "kept_visual_tokens_mean": float(per_layer.sum(1).mean()),
        "kept_visual_tokens_last_layer": float(per_layer[-1].sum()),
        "kept_visual_tokens_per_layer": {
            name: per_layer[:, c].tolist() for c, name in enumerate(records[0]["cameras"])
        },
        "decoder_flops": float(np.mean(_all(records, "flops"))),
        "decoder_flops_ratio": flops_ratio(records),
        "decoder_flops_ratio_pruned_queries": _pruned_ratio(records),
        "queries_per_episode": float(np.mean([len(r["flops"]) for r in records])),
        "dense_query_share": float(np.mean(_all(records, "dense"))),
        "fallbacks": len(_all(records, "fallbacks")),
        "mode_share": _modes(_all(records, "fine")),
        "steps_per_episode": float(np.mean([r["steps"] for r in records])),
        "episode_s": {
            "simulated": float(np.mean([r["simulated_s"] for r in records])),
            "wall": float(np.mean([t["wall_s"] for t in timing])),
        },
        "seam_jump": {name: _jump(records, name) for name in ("translation", "rotation")},
        "action_distance": _distance(records),
        "tasks": _by_task(records),
    }
    if copied is not None:
        summary["counts_repeated_queries"] = sum(
            max(0, len(r["kept"]) - len(c["kept"])) for r, c in zip(records, copied)
        )
    return summary


def summarize_all(found: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, Any]]:
    """:func:`summarize` of every method by name."""
    return {
        name: summarize(records, found.get(DEFAULT) if name in COPIES else None)
        for name, records in found.items()
    }


def compare(
    found: Mapping[str, Sequence[Record]], baseline: str = DENSE,
    reference: Sequence[Record] | None = None,
) -> dict[str, dict[str, Any]]:
    """Every other method against the baseline (or ``reference``), by initial state."""
    reference = found.get(baseline, ()) if reference is None else reference
    compared = {}
    for name, records in found.items():
        if name != baseline and _played(records) and _played(reference):
            compared[name] = asdict(paired(records, reference))
    return compared


def paired(method: Sequence[Record], baseline: Sequence[Record]):
    """Raises ValueError unless both have the same initial states in the same order."""
    states = [[(r["task"], r["init_state"]) for r in records] for records in (method, baseline)]
    if states[0] != states[1]:
        raise ValueError("the initial states of the two methods differ")
    return paired_difference([r["success"] for r in method], [r["success"] for r in baseline])


def flops_ratio(records: Sequence[Record]) -> float:
    """Decoder FLOPs over those of a dense decoder, all queries of all episodes together."""
    return sum(_all(records, "flops")) / sum(_all(records, "dense_flops"))


def _played(records: Sequence[Record]) -> bool:
    return bool(records) and "unavailable" not in records[0]


def _all(records: Sequence[Mapping[str, Any]], name: str) -> list:
    return list(chain.from_iterable(r[name] for r in records))


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 95)}


def _pruned_ratio(records: Sequence[Record]) -> float | None:
    """As :func:`flops_ratio`, without the queries that kept everything."""
    flops, dense = (np.array(_all(records, name)) for name in ("flops", "dense_flops"))
    pruned = ~np.array(_all(records, "dense"), bool)
    return float(flops[pruned].sum() / dense[pruned].sum()) if pruned.any() else None


def _modes(fine: Sequence[bool]) -> dict[str, float]:
    share = float(np.mean(fine))
    return {"coarse": 1.0 - share, "fine": share}


def _jump(records: Sequence[Record], name: str) -> dict[str, float | None]:
    """Controller units; ``inside`` is the mean change between actions of one chunk."""
    seams = _all(records, f"seam_{name}")
    inside = [r[f"inside_{name}"] for r in records if r[f"inside_{name}"] is not None]
    return {
        "mean": float(np.mean(seams)) if seams else None,
        "p95": float(np.percentile(seams, 95)) if seams else None,
        "inside": float(np.mean(inside)) if inside else None,
    }


def _distance(records: Sequence[Record]) -> dict[str, float] | None:
    if any(r["distance"] is None for r in records):
        return None
    values = _all(records, "distance")
    return {"mean": float(np.mean(values)), "p95": float(np.percentile(values, 95))}


def _by_task(records: Sequence[Record]) -> list[dict[str, Any]]:
    tasks = sorted({r["task"] for r in records})
    groups = [[r for r in records if r["task"] == task] for task in tasks]
    return [
        {"task": task, "n": len(group), "successes": sum(r["success"] for r in group)}
        for task, group in zip(tasks, groups)
    ]
