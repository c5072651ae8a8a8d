"""What methods keep, cost and change, on the same observations, each beside a dense policy."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from specprune_ros.analysis.recording import Recording
from specprune_ros.analysis.replay import Query, query_count, replay_queries
from specprune_ros.analysis.threads import one_thread
from specprune_ros.errors import MethodUnavailable
from specprune_ros.policy import Policy
from specprune_ros.types import Mode, PruneReport

Progress = Callable[[], None]


@dataclass(frozen=True)
class QueryMeasure:
    """One query of one method.

    rows: int [layers], rows that enter each decoder layer. kept: int [layers, n_cam], the visual
    ones among them. chunk_l1, first_l1: mean absolute difference from the dense actions, in
    normalised units, over the chunk and over its first action. dense: kept everything on purpose.
    reused: share of the cameras whose features were used again.
    """

    rows: np.ndarray
    kept: np.ndarray
    flops: float
    dense_flops: float
    cpu_ms: float
    wall_ms: float
    chunk_l1: float
    first_l1: float
    fine: bool
    dense: bool
    reused: float


@dataclass
class Measurement:
    """The queries of one method; ``unavailable`` says why there are none."""

    cameras: tuple[str, ...] = ()
    queries: list[QueryMeasure] = field(default_factory=list)
    unavailable: str | None = None

    def summary(self) -> dict[str, Any]:
        """Plain numbers for JSON; means are over queries, ``*_steady`` over the pruned ones.

        Keys end in their unit where they have one. ``flops`` are those of the decoder.
        """
        if self.unavailable is not None:
            return {"unavailable": self.unavailable}
        steady = [q for q in self.queries if not q.dense]
        kept = _mean(self.queries, "kept")  # [layers, n_cam]
        return {
            "queries": len(self.queries),
            "dense_queries": len(self.queries) - len(steady),
            "fine_share": float(np.mean([q.fine for q in self.queries])),
            "rows_per_layer": _mean(self.queries, "rows").tolist(),
            "kept_visual_per_layer": kept.sum(1).tolist(),
            "kept_visual_per_camera": {
                name: kept[:, index].tolist() for index, name in enumerate(self.cameras)
            },
            "kept_visual_mean": float(kept.sum(1).mean()),
            "kept_visual_last_layer": float(kept[-1].sum()),
            "flops": float(_mean(self.queries, "flops")),
            "flops_ratio": _ratio(self.queries),
            "flops_ratio_steady": _ratio(steady),
            "cpu_ms_median": _median(self.queries, "cpu_ms"),
            "cpu_ms_median_steady": _median(steady, "cpu_ms"),
            "wall_ms_median": _median(self.queries, "wall_ms"),
            "reused_cameras_share": float(_mean(self.queries, "reused")),
            "action_l1_chunk": float(_mean(self.queries, "chunk_l1")),
            "action_l1_chunk_max": float(max(q.chunk_l1 for q in self.queries)),
            "action_l1_first": float(_mean(self.queries, "first_l1")),
        }


def measure(
    reference: Policy,
    policies: Mapping[str, Policy],
    recordings: Sequence[Recording],
    every: int,
    max_queries: int | None = None,
    progress: Progress = lambda: None,
) -> dict[str, Measurement]:
    """Replay every recording through every policy, query by query, and compare with ``reference``.

    reference: a dense policy. policies: label -> policy, one object each. max_queries: per
    recording. progress: called after each query of each policy. The policies take turns, forward
    and backward, so that a busy machine slows all of them. A policy that raises MethodUnavailable
    drops out with its reason.
    """
    found = {label: Measurement() for label in policies}
    with one_thread():
        _warm_up([reference, *policies.values()], recordings[0])
        for recording in recordings:
            _measure_one(reference, policies, recording, every, max_queries, found, progress)
    return found


def _warm_up(policies: Sequence[Policy], recording: Recording) -> None:
    """One unmeasured query each: lazily built tables are not the methods' cost."""
    for policy in policies:
        try:
            next(replay_queries(policy, recording))
        except MethodUnavailable:
            pass  # the measured replay meets it again and notes it


def _measure_one(
    reference: Policy,
    policies: Mapping[str, Policy],
    recording: Recording,
    every: int,
    max_queries: int | None,
    found: dict[str, Measurement],
    progress: Progress,
) -> None:
    streams = {
        label: replay_queries(policy, recording, every) for label, policy in policies.items()
    }
    dense = islice(replay_queries(reference, recording, every), max_queries)
    for number, expected in enumerate(dense):
        order = list(streams) if number % 2 == 0 else list(reversed(streams))
        for label in order:
            measurement = found[label]
            if measurement.unavailable is None:
                try:
                    query = next(streams[label])
                except MethodUnavailable as error:
                    measurement.unavailable = str(error)
                    measurement.queries.clear()
                else:
                    measurement.cameras = tuple(c.name for c in query.chunk.report.cameras)
                    measurement.queries.append(_compare(query, expected))
            progress()


def _compare(query: Query, dense: Query) -> QueryMeasure:
    report = query.chunk.report
    difference = np.abs(
        query.chunk.normalized_actions.astype(np.float64) - dense.chunk.normalized_actions
    )
    return QueryMeasure(
        rows=np.array([len(positions) for positions in report.kept_positions]),
        kept=visual_rows(report),
        flops=report.flops,
        dense_flops=report.dense_flops,
        cpu_ms=query.cpu_ms,
        wall_ms=query.wall_ms,
        chunk_l1=float(difference.mean()),
        first_l1=float(difference[0].mean()),
        fine=report.mode is Mode.FINE,
        dense=report.dense_refresh,
        reused=len(report.reused_cameras) / len(report.cameras),
    )


def visual_rows(report: PruneReport) -> np.ndarray:
    """int [layers, n_cam]: visual rows that enter each layer, from the kept positions."""
    edges = 1 + np.cumsum([0, *(camera.tokens_in for camera in report.cameras)])
    counts = [np.diff(np.searchsorted(positions, edges)) for positions in report.kept_positions]
    return np.stack(counts)


def total_queries(
    recordings: Sequence[Recording], every: int, max_queries: int | None = None
) -> int:
    """Queries that one policy makes in :func:`measure`."""
    counts = [query_count(recording, every) for recording in recordings]
    return sum(n if max_queries is None else min(n, max_queries) for n in counts)


def _mean(queries: Sequence[QueryMeasure], name: str) -> np.ndarray:
    return np.mean([getattr(q, name) for q in queries], axis=0)


def _median(queries: Sequence[QueryMeasure], name: str) -> float | None:
    return float(np.median([getattr(q, name) for q in queries])) if queries else None


def _ratio(queries: Sequence[QueryMeasure]) -> float | None:
    """FLOPs over those of the dense decoder; None without queries."""
    if not queries:
        return None
    return float(_mean(queries, "flops") / _mean(queries, "dense_flops"))
