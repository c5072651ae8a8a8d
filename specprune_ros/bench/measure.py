"""Times of arms that take turns, query by query, on the same inputs."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from specprune_ros.bench.streams import SETS, Stream
from specprune_ros.types import ActionChunk

#: Stages of a query that lie in the decoder, by the names of ``StageClock``.
DECODER = "decoder"
PROBE = "selection"  # name of the extra arm whose session has a stopwatch


@dataclass
class ArmTimes:
    """Milliseconds of the timed queries of an arm, and what they kept.

    cpu, query_cpu: process time of the decoder and of the whole query. wall: elapsed time of the
    whole query. cuda: between events on the device, from the upload to the actions. stages: process
    time (CPU) or elapsed time (CUDA) per stage.
    """

    cpu: list[float] = field(default_factory=list)
    query_cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cuda: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    rows: list[list[int]] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    dense_flops: list[float] = field(default_factory=list)
    trimmed: list[int] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)
    runtime: str = ""
    peak_memory: int | None = None

    def add(self, chunk: ActionChunk) -> None:
        report = chunk.report
        self.rows.append([len(positions) for positions in report.kept_positions])
        self.flops.append(report.flops)
        self.dense_flops.append(report.dense_flops)
        self.trimmed.append(sum(camera.trimmed for camera in report.cameras))
        self.filled.append(sum(camera.filled for camera in report.cameras))
        self.runtime = report.runtime


def statistics(values: Sequence[float]) -> dict[str, Any] | None:
    """median, iqr (distance of the quartiles), p95, n, and the values in the order of the rounds;
    None without values."""
    if not values:
        return None
    low, middle, high, tail = np.percentile(values, [25, 50, 75, 95])
    return {"median": float(middle), "iqr": float(high - low), "p95": float(tail),
            "n": len(values), "values": [round(float(value), 4) for value in values]}


def run(
    streams: Mapping[str, Stream],
    queries: int,
    warm_ups: int,
    progress: Callable[[], None] = lambda: None,
    after_probe: Callable[[], None] | None = None,
) -> dict[str, ArmTimes]:
    """Time ``queries`` queries of each arm, after ``warm_ups`` of each that are not.

    The order of the arms is reversed from round to round (ABBA). The first query of each episode is
    dense in all arms, so at least two per set are warm-ups. after_probe: called after each timed
    query of the arm ``PROBE``.
    """
    found = {name: ArmTimes() for name in streams}
    names = list(streams)
    warm_ups = max(warm_ups, 2 * SETS)
    for number in range(warm_ups + queries):
        for name in names if number % 2 == 0 else reversed(names):
            stream = streams[name]
            observation, episode = stream.ready(number % SETS)
            timed = number >= warm_ups
            _query(stream, observation, episode, found[name] if timed else None)
            if timed and after_probe is not None and name == PROBE:
                after_probe()
            progress()
    return found


def _query(stream: Stream, observation: Any, episode: Any, times: ArmTimes | None) -> None:
    policy = stream.policy
    cuda = policy.model.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    worked, began = time.process_time(), time.perf_counter()
    chunk = policy.predict(observation, episode)
    wall, worked = time.perf_counter() - began, time.process_time() - worked
    if times is None:
        return
    clock = policy.clock
    times.wall.append(1e3 * wall)
    times.query_cpu.append(1e3 * worked)
    times.cpu.append(clock.cpu_ms.get(DECODER, 0.0))
    for stage, ms in (clock.stage_ms if cuda else clock.cpu_ms).items():
        times.stages.setdefault(stage, []).append(ms)
    if clock.device_ms is not None:
        times.cuda.append(clock.device_ms)
    times.add(chunk)
