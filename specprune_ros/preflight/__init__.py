"""Preflight of a policy: what must be right before its actions are used.

    findings = check_policy(policy, ("primary", "wrist"))
    raise_failures(findings)

``specprune doctor`` shows these findings beside those about the machine; vla_node asks for them
when it is configured. Checks are independent: an error in one is its own FAIL line.
"""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ..policy import Policy
from .attention import check_attention, noise
from .checkpoint import check_cameras, check_chunk_length, check_statistics, check_trained
from .findings import Finding, Level, ok, raise_failures, run_checks

__all__ = ["Finding", "Level", "check_policy", "raise_failures"]


def check_policy(policy: Policy, cameras: Sequence[str] = ("primary", "wrist")) -> list[Finding]:
    """Check a loaded policy: attention, statistics, cameras, chunk length, training.

    The policy's own episode and its pruning stay as they are. It takes three dense queries.
    """
    names = tuple(cameras)
    return run_checks([
        ("attention", lambda: check_attention(policy, names)),
        ("statistics", lambda: check_statistics(
            policy.statistics, policy.action_dim, policy.proprio_dim)),
        ("cameras", lambda: check_cameras(policy, names)),
        ("chunk length", lambda: check_chunk_length(policy)),
        ("weights", lambda: check_trained(policy)),
    ])


def check_query(policy: Policy, cameras: Sequence[str] = ("primary", "wrist")) -> list[Finding]:
    """A dense and a pruned query on noise, timed once the policy is warm: information only."""
    def timed() -> Finding:
        policy.warm_up(tuple(cameras))
        observation, episode = noise(policy, cameras), policy.make_episode()
        times = []
        for number in range(2):
            start = time.perf_counter()
            policy.predict(replace(observation, stamp=0.4 * number), episode)
            times.append((time.perf_counter() - start) * 1e3)
        return ok("query", f"{policy.pruner.name}: {times[0]:.0f} ms for the first of an episode, "
                           f"{times[1]:.0f} ms for the next")

    return run_checks([("query", timed)])
