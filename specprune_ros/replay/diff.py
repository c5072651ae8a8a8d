"""Two runs of the same inputs, query by query."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from .run import Run

_COMPARED = ("checkpoint", "pruning", "parameters", "clock", "instruction", "versions", "commit")


@dataclass(frozen=True)
class QueryDiff:
    """One query of both runs. None where it cannot be told.

    stamp: of the observation, ns. l1: mean absolute difference of the actions over the chunk;
    linf: the largest; both in the units of the actions. tokens: that entered the decoder layers,
    mean over layers, of A and B. token_change: the largest relative change of a layer. kept_layers:
    layers whose kept sets differ. time_ratio: inference time of B over A.
    """

    stamp: int
    l1: float | None
    linf: float | None
    modes: tuple[int, int]
    tokens: tuple[float | None, float | None]
    token_change: float | None
    kept_layers: int | None
    time_ratio: float | None


@dataclass(frozen=True)
class RunDiff:
    """Both runs. only_a, only_b: stamps of queries without a counterpart.

    settings: what the summaries say differently, name -> (A, B).
    """

    queries: Sequence[QueryDiff]
    only_a: Sequence[int]
    only_b: Sequence[int]
    settings: Mapping[str, tuple[Any, Any]]

    def worst(self, name: str) -> float | None:
        """The largest value of a field over the queries; None if it is known of none."""
        values = [getattr(q, name) for q in self.queries if getattr(q, name) is not None]
        return max(values) if values else None

    @property
    def mode_changes(self) -> int:
        return sum(q.modes[0] != q.modes[1] for q in self.queries)

    @property
    def time_ratio(self) -> float | None:
        """Median over the queries."""
        ratios = [q.time_ratio for q in self.queries if q.time_ratio is not None]
        return median(ratios) if ratios else None

    def exceeded(self, max_action_distance: float, max_token_change: float) -> list[str]:
        """What is not within the limits, in words.

        max_action_distance: on ``linf``. max_token_change: on ``token_change``; with 0, the kept
        sets must be the same ones, too. A query that only one run has is never within limits.
        """
        problems = []
        for which, stamps in (("A", self.only_a), ("B", self.only_b)):
            if stamps:
                problems.append(f"{len(stamps)} queries only in {which}, the first at "
                                f"{stamps[0] / 1e9:.3f} s")
        if not self.queries:
            problems.append("no query in both runs")
        for what, name, limit in (
                ("action distance", "linf", max_action_distance),
                ("token change", "token_change", max_token_change)):
            over = [q for q in self.queries
                    if getattr(q, name) is not None and getattr(q, name) > limit]
            if over:
                problems.append(f"{what} above {limit:g} in {len(over)} of {len(self.queries)} "
                                f"queries, up to {self.worst(name):.6g}")
        unlike = [q for q in self.queries if q.linf is None]
        if unlike:
            problems.append(f"chunks of other shapes, or with NaN, in {len(unlike)} queries")
        kept = [q for q in self.queries if q.kept_layers]
        if kept and max_token_change == 0:
            problems.append(f"other kept sets in {len(kept)} of {len(self.queries)} queries")
        return problems


def diff_runs(a: Run, b: Run) -> RunDiff:
    """Compare two runs. Queries are paired by the stamps of their observations."""
    theirs = _by_stamp(b.queries)
    pairs, only_a = [], []
    for key, query in _by_stamp(a.queries).items():
        other = theirs.pop(key, None)
        if other is None:
            only_a.append(key[0])
        else:
            pairs.append(_diff(query, other))
    return RunDiff(pairs, only_a, [key[0] for key in theirs], _settings(a.summary, b.summary))


def _by_stamp(queries: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], Mapping[str, Any]]:
    """(stamp, how often it has come before) -> query: one may be made again after a reset."""
    found: dict[tuple[int, int], Mapping[str, Any]] = {}
    seen: dict[int, int] = {}
    for query in queries:
        stamp = query["stamp"]
        found[stamp, seen.get(stamp, 0)] = query
        seen[stamp] = seen.get(stamp, 0) + 1
    return found


def _diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> QueryDiff:
    actions = [np.asarray(query["actions"], np.float64) for query in (a, b)]
    l1 = linf = None
    if actions[0].shape == actions[1].shape and np.isfinite(actions).all() and actions[0].size:
        distance = np.abs(actions[0] - actions[1])
        l1, linf = float(distance.mean()), float(distance.max())
    layers = [query.get("tokens_per_layer") or [] for query in (a, b)]
    hashes = [query.get("kept_hashes") or [] for query in (a, b)]
    times = [query["time"]["inference_s"] for query in (a, b)]
    return QueryDiff(
        stamp=a["stamp"], l1=l1, linf=linf, modes=(a.get("mode", 0), b.get("mode", 0)),
        tokens=tuple(float(np.mean(rows)) if rows else None for rows in layers),
        token_change=_token_change(*layers),
        kept_layers=(sum(x != y for x, y in zip(*hashes))
                     if all(hashes) and len(hashes[0]) == len(hashes[1]) else None),
        time_ratio=times[1] / times[0] if times[0] > 0 else None)


def _token_change(a: Sequence[int], b: Sequence[int]) -> float | None:
    if not a or len(a) != len(b):
        return None
    before = np.asarray(a, np.float64)
    return float(np.max(np.abs(np.asarray(b) - before) / np.maximum(before, 1.0)))


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What the summaries have both, and differently; of a mapping only those entries."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in _COMPARED:
        x, y = a.get(name), b.get(name)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            for key in sorted({*x, *y}):
                if x.get(key) != y.get(key) and not _says_nothing(key):
                    found[f"{name}.{key}"] = (x.get(key), y.get(key))
        elif x != y and name in a and name in b:
            found[name] = (x, y)
    return found


def _says_nothing(key: str) -> bool:
    """Where a checkpoint lies (its hash counts), and QoS, which lock-step makes up for."""
    return key in ("checkpoint", "name", "path") or key.startswith("qos_overrides.")
