"""Before timing: the arms compute the same thing."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from specprune_ros.bench.arms import ARMS, OneExecutor
from specprune_ros.errors import InferenceError
from specprune_ros.pruning.given import GivenRows
from specprune_ros.runtime.execution import EagerExecutor
from specprune_ros.types import ActionChunk

if TYPE_CHECKING:
    from specprune_ros.bench.session import Bench

# Largest difference of normalised actions: rounding, in as many layers as the model has.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}


def check_actions(bench: Bench) -> dict[str, Any]:
    """Largest differences of normalised actions, by pair of arms.

    Dense arms: of the first query, in which all arms keep everything. ``d/eager``: arm d against an
    eager query that keeps the rows that d kept. Raises InferenceError where arms disagree. int8:
    what rounded weights change, which is not an error.
    """
    found: dict[str, float] = {}
    first = {}
    for name, policy in bench.policies.items():
        stream = bench.stream(policy)
        first[name] = policy.predict(*stream.ready(0))
        if name == "d":
            observation, episode = stream.ready(0)
            pruned = policy.predict(observation, episode)
            found["d/eager"] = _difference(pruned, _eager(bench, pruned, observation))
    names = [name for name in first if ARMS[name].weights == "full"]
    for one, other in zip(names, names[1:]):
        found[f"dense {one}/{other}"] = _difference(first[one], first[other])
    dtype = str(bench.loaded.model.dtype).removeprefix("torch.")
    for pair, difference in found.items():
        if not difference <= _TOLERANCE[dtype]:
            raise InferenceError(
                f"arms disagree, so their times say nothing: {pair} differ by {difference:.3g} in "
                f"normalised actions, {dtype} allows {_TOLERANCE[dtype]}"
            )
    rounded = {
        f"{full}/{int8}": _difference(first[full], first[int8])
        for full, int8 in (("b", "b8"), ("d", "d8")) if full in first and int8 in first
    }
    return {"max_action_difference": found, "tolerance": _TOLERANCE[dtype], "int8": rounded}


def _eager(bench: Bench, pruned: ActionChunk, observation: Any) -> ActionChunk:
    pruner = GivenRows.of(pruned.report.kept_positions)
    executor = OneExecutor(EagerExecutor(bench.loaded.model))
    policy = bench.policy(executor, pruner)
    return policy.predict(observation, policy.make_episode())


def _difference(one: ActionChunk, other: ActionChunk) -> float:
    return float(np.abs(one.normalized_actions - other.normalized_actions).max())
