"""A recording through a policy: queries at a fixed interval, every frame in between observed."""
from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from specprune_ros.analysis.recording import Recording
from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Policy
from specprune_ros.types import ActionChunk, Observation


@dataclass(frozen=True)
class Query:
    """One query of a replay. cpu_ms: CPU time of the process; wall_ms: elapsed time."""

    observation: Observation
    chunk: ActionChunk
    cpu_ms: float
    wall_ms: float


def replay(
    policy: Policy, recording: Recording, every: int | None = None
) -> Iterator[tuple[Observation, ActionChunk]]:
    """Query the policy at every ``every``-th step (default: its chunk length).

    Frames and velocities of the steps in between go to ``observe``. The episode is one of the
    replay's own: replays and other users of the policy do not mix. The recorded actions are not
    used: without recorded velocities the policy judges the motion by its own commands.
    """
    for query in replay_queries(policy, recording, every):
        yield query.observation, query.chunk


def replay_queries(
    policy: Policy, recording: Recording, every: int | None = None
) -> Iterator[Query]:
    """As :func:`replay`, with the time that each query took."""
    every = policy.chunk_length if every is None else every
    if every < 1:
        raise ConfigurationError(f"the interval of queries must be >= 1 step, not {every}")
    episode = policy.make_episode()
    for step in range(recording.steps):
        if step % every:
            policy.observe(
                recording.images(step),
                float(recording.stamps[step]),
                recording.twist(step),
                episode=episode,
            )
            continue
        observation = recording.observation(step, policy.uses_proprio)
        cpu, wall = time.process_time(), time.perf_counter()
        chunk = policy.predict(observation, episode=episode)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        yield Query(observation, chunk, cpu * 1e3, wall * 1e3)


def query_count(recording: Recording, every: int) -> int:
    """Queries that a replay makes."""
    return -(-recording.steps // every)
