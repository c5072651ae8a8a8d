"""What selection costs, of a layer and of a query."""
from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from specprune_ros.analysis.overhead_probe import TimedPruner
from specprune_ros.bench.measure import PROBE, ArmTimes
from specprune_ros.bench.summary import ratio
from specprune_ros.policy import Policy
from specprune_ros.pruning.given import GivenRows
from specprune_ros.pruning.presets import preset
from specprune_ros.pruning.schedule import Schedule

if TYPE_CHECKING:
    from specprune_ros.bench.session import Bench

_PRESET = "specprune"
#: Parts of a query that dense inference does not have; frames are compared before the decoder.
_IN_LAYERS = ("scoring", "selection")
_PARTS = (*_IN_LAYERS, "frame comparison", "gather", "update")


class Stopwatch:
    """Arm d once more with a stopwatch (process time) in its session; eager, on the CPU."""

    def __init__(self, policy: Policy) -> None:
        self._pruner = TimedPruner(preset(_PRESET), time.process_time)
        self.policy = policy.with_pruning(self._pruner)
        self._parts: list[dict[str, float]] = []

    def note(self) -> None:
        """Keep the times of the newest query, in ms."""
        self._parts.append({part: 1e3 * self._pruner.seconds[part] for part in _PARTS})

    def shares(self, times: Mapping[str, ArmTimes], depth: int) -> dict[str, Any]:
        """Shares, medians of those of each round, and the medians of the times.

        selection_of_layer: scoring and selection, mean over the layers that score or select, over
        the dense decoder's time per layer (arm b). selection_of_query: these, the comparison of
        frames, gathers and the update of history, over the whole query.
        """
        rounds = {part: np.array([p[part] for p in self._parts]) for part in _PARTS}
        layers = len(_layers(preset(_PRESET).schedule(depth)))
        dense = times.get("b")
        of_layer = None
        if dense is not None:
            in_layers = sum(rounds[part] for part in _IN_LAYERS) / layers
            of_layer = float(np.median(in_layers / (np.array(dense.cpu) / depth)))
        query = np.array(times[PROBE].query_cpu)
        return {
            "selection_of_layer": of_layer,
            "selection_of_query": float(np.median(sum(rounds.values()) / query)),
            "selection_ms": {part: float(np.median(ms)) for part, ms in rounds.items()},
            "selection_layers": layers,
        }


class Replay:
    """Queries that keep the rows that arm d keeps, and are told them: what is less is selection.

    For runtimes in which no stopwatch fits between the operations.
    """

    def __init__(self, bench: Bench) -> None:
        d = bench.policies["d"]
        stream = bench.stream(d)
        for _ in range(2):
            chunk = d.predict(*stream.ready(0))
        self.policy = d.with_pruning(GivenRows.of(chunk.report.kept_positions))

    def note(self) -> None:
        pass

    def shares(self, times: Mapping[str, ArmTimes], depth: int) -> dict[str, Any]:
        """selection_of_query: what arm d takes longer, over its time."""
        told = times[PROBE]
        return {
            "selection_of_layer": None,
            "selection_of_query": 1 - 1 / ratio(times["d"], told, whole=True),
            "selection_ms": {
                "query with its rows told": float(np.median(told.cuda or told.query_cpu))},
            "selection_layers": None,
        }


def watcher(bench: Bench) -> Stopwatch | Replay:
    """What measures the selection of arm d."""
    d = bench.policies["d"]
    eager = d.runtime.executor(d.pruner).name == "eager"
    return Stopwatch(d) if eager and not bench.cuda else Replay(bench)


def _layers(schedule: Schedule) -> set[int]:
    """Layers at which something is scored or selected."""
    return {*schedule.local, *schedule.global_, *schedule.update, *schedule.prune}
