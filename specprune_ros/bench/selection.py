"""What selection costs, of a layer and of a query."""
from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from specprune_ros.analysis.overhead_probe import TimedPruner
from specprune_ros.bench.measure import PROBE, ArmTimes
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.presets import preset
from specprune_ros.pruning.schedule import Schedule
from specprune_ros.runtime.choice import Runtime
from specprune_ros.runtime.execution import EagerExecutor

#: Parts of a query that dense inference does not have; frames are compared before the decoder.
_IN_LAYERS = ("scoring", "selection")
_PARTS = (*_IN_LAYERS, "frame comparison", "gather", "update")


class ProbedPolicy:
    """Arm d once more with a stopwatch (process time) in its session; CPU, eager runtime."""

    def __init__(self, policy: Policy) -> None:
        self.pruner = TimedPruner(preset("specprune"), time.process_time)
        self.policy = policy.with_pruning(self.pruner)
        self.parts: list[dict[str, float]] = []

    def note(self) -> None:
        """Keep the times of the newest query, in ms."""
        self.parts.append({part: 1e3 * self.pruner.seconds[part] for part in _PARTS})


def can_probe(runtime: Runtime, policy: Policy) -> bool:
    """A stopwatch needs sessions that run operation by operation, on the CPU."""
    eager = isinstance(runtime.executor(policy.pruner), EagerExecutor)
    return eager and policy.model.device.type == "cpu"


def shares(
    parts: list[dict[str, float]], config: SpecPruneConfig, depth: int,
    times: Mapping[str, ArmTimes],
) -> dict[str, object]:
    """``selection_of_layer``, ``selection_of_query`` and the medians they come from.

    of a layer: scoring and selection, mean over the layers that score or select, over the dense
    decoder's time per layer (arm b). of the query: these, the comparison of frames, gathers and
    the update of history, over the whole query (arm d).
    """
    medians = {part: float(np.median([p[part] for p in parts])) for part in _PARTS}
    layers = len(_layers(config.schedule(depth)))
    in_layers = sum(medians[part] for part in _IN_LAYERS)
    found: dict[str, object] = {
        "selection_ms": medians,
        "selection_layers": layers,
        "selection_of_query": sum(medians.values()) / float(np.median(times[PROBE].query_cpu)),
    }
    if "b" in times:
        dense_layer = float(np.median(times["b"].cpu)) / depth
        found["selection_of_layer"] = in_layers / layers / dense_layer
    return found


def _layers(schedule: Schedule) -> set[int]:
    """Layers at which something is scored or selected."""
    return {*schedule.local, *schedule.global_, *schedule.update, *schedule.prune}
