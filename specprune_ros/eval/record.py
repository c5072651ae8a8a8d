"""The record of an episode, made from what was played: the same in process and through ROS."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specprune_ros.robot.gripper import to_env_actions
from specprune_ros.robot.guard import saturate
from specprune_ros.types import ActionChunk, Mode

Record = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """What a query gave.

    at: control periods played before it. actions: float64 [C, 7], saturated as the guard of
    vla_node and every simulator do. kept: visual tokens that entered each layer, [layer][camera].
    fallback: vla_node gave a dense chunk in the place of the method's, which failed or was refused.
    """

    at: int
    actions: np.ndarray
    kept: Sequence[Sequence[int]]
    flops: float
    dense_flops: float
    fine: bool
    fallback: bool = False

    @classmethod
    def of(cls, at: int, chunk: ActionChunk) -> Query:
        report = chunk.report
        return cls(at, saturate(chunk.actions), report.visual_tokens_per_layer, report.flops,
                   report.dense_flops, report.mode is Mode.FINE)

    @property
    def digest(self) -> str:
        """Of the bits of the actions, 12 hexadecimal digits."""
        bits = np.ascontiguousarray(self.actions, "<f8").tobytes()
        return hashlib.sha256(bits).hexdigest()[:12]


def played_record(
    queries: Sequence[Query], steps: int, cameras: Sequence[str], control_period: float
) -> Record:
    """What an episode of so many control periods was, without its outcome and its times."""
    return {
        "steps": steps,
        "simulated_s": steps * control_period,
        "cameras": list(cameras),
        "kept": [[list(layer) for layer in query.kept] for query in queries],
        "flops": [query.flops for query in queries],
        "dense_flops": [query.dense_flops for query in queries],
        "fine": [query.fine for query in queries],
        "dense": [query.flops == query.dense_flops for query in queries],
        "fallbacks": [number for number, query in enumerate(queries) if query.fallback],
        "chunk_digests": [query.digest for query in queries],
        **_jumps(_executed(queries, steps), [query.at for query in queries]),
    }


def _executed(queries: Sequence[Query], steps: int) -> np.ndarray:
    """The actions [steps, 7] that the simulator was given."""
    ends = [query.at for query in queries[1:]] + [steps]
    rows = [to_env_actions(q.actions)[: end - q.at] for q, end in zip(queries, ends)]
    return np.concatenate(rows)


def _jumps(actions: np.ndarray, queries_at: Sequence[int]) -> Record:
    """How far each executed action [T, 7] is from the one before, in controller units.

    The norm of the difference of translations, and of rotations: one number per seam (from the
    last executed action of a chunk to the first of the next), the mean inside chunks.
    """
    found: Record = {}
    executed = np.clip(actions, -1.0, 1.0)  # as the controller does
    seams = np.isin(np.arange(1, len(executed)), queries_at)
    for name, columns in (("translation", slice(0, 3)), ("rotation", slice(3, 6))):
        norms = np.linalg.norm(np.diff(executed[:, columns], axis=0), axis=1)
        inside = norms[~seams]
        found[f"seam_{name}"] = norms[seams].tolist()
        found[f"inside_{name}"] = float(inside.mean()) if len(inside) else None
    return found
