"""A latency budget: how many rows a query may keep if it shall take no longer than so much."""
from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from specprune_ros.errors import ConfigurationError
from specprune_ros.types import Observation

_log = logging.getLogger(__name__)
_UNTIMED, _TIMED = 2, 5  # queries of each bucket that is tried
_PICTURE = (480, 640)  # px; what cameras commonly send, as preparing it takes part of the budget
_INSTRUCTION = "pick up the red cube and place it on the plate"
_PERIODS = 8  # control periods between two queries


class Buckets(Protocol):
    """An executor whose number of rows after the static stage can be chosen."""

    bucket: int | None

    def buckets(self, layout: Any, pruner: Any) -> list[int]: ...


@dataclass(frozen=True)
class BucketChoice:
    """bucket: rows after the static stage. times: median milliseconds of the buckets tried."""

    bucket: int
    times: Mapping[int, float]

    @property
    def expected_ms(self) -> float:
        return self.times[self.bucket]


def check_target(target_ms: float) -> None:
    """Raises ConfigurationError for what is no latency; 0 stands for none."""
    if not (math.isfinite(target_ms) and target_ms >= 0):
        raise ConfigurationError(
            f"latency_target_ms is {target_ms}: it must be a number of milliseconds, or 0 for none"
        )


def choose(
    buckets: Sequence[int], measure: Callable[[int], float], target_ms: float
) -> BucketChoice:
    """The largest of the (ascending) buckets whose time is within the target, else the smallest.

    measure: milliseconds of a bucket; asked for about log2 of them, as more rows take longer.
    """
    times: dict[int, float] = {}
    low, high = 0, len(buckets)  # buckets[:low] are within the target, buckets[high:] are not
    while low < high:
        middle = (low + high) // 2
        times[buckets[middle]] = measure(buckets[middle])
        if times[buckets[middle]] <= target_ms:
            low = middle + 1
        else:
            high = middle
    return BucketChoice(buckets[max(0, low - 1)], times)


def pick_bucket(
    policy: Any, executor: Buckets, cameras: Sequence[str], target_ms: float
) -> BucketChoice:
    """Measure pruned queries of the policy on this machine, and have ``executor`` use the bucket
    that suits the target. Elapsed time of whole queries, from camera pictures of 640 x 480.

    policy: a ``specprune_ros.policy.Policy`` that prunes with SpecPrune.
    """
    prompt = policy.inputs.prompt(_INSTRUCTION)
    layout = policy.inputs.layout(tuple(cameras), prompt, policy.uses_proprio)
    ladder = executor.buckets(layout, policy.pruner)
    proprio = policy.statistics.proprio.low if policy.uses_proprio else None
    episode, random, number = policy.make_episode(), np.random.default_rng(0), 0

    def query() -> float:
        nonlocal number
        images = {name: _picture(random) for name in cameras}
        policy.inputs.learn(images)
        stamp = number * _PERIODS * policy.control_period
        number += 1
        began = time.perf_counter()
        policy.predict(Observation(images, _INSTRUCTION, proprio, stamp), episode)
        return 1e3 * (time.perf_counter() - began)

    def measure(bucket: int) -> float:
        executor.bucket = bucket
        times = [query() for _ in range(_UNTIMED + _TIMED)]
        return float(np.median(times[_UNTIMED:]))

    query()  # the first one of an episode is dense
    choice = choose(ladder, measure, target_ms)
    executor.bucket = choice.bucket
    if choice.expected_ms > target_ms:
        _log.warning(
            "latency_target_ms %g cannot be met: a query takes %.1f ms with as few rows as the "
            "pruning floor allows (%d). Raise the target, lower dynamic.floor, or use a faster "
            "device", target_ms, choice.expected_ms, choice.bucket,
        )
    else:
        _log.info("latency_target_ms %g: %d rows after the static stage, %.1f ms",
                  target_ms, choice.bucket, choice.expected_ms)
    return choice


def _picture(random: np.random.Generator) -> np.ndarray:
    """uint8 [480, 640, 3] of random squares: never the same twice."""
    squares = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    edge = _PICTURE[0] // len(squares)
    return squares.repeat(edge, axis=0).repeat(edge, axis=1)
