"""Data that crosses module boundaries: frozen dataclasses, numpy only (no torch, no rclpy).

Units are SI and frames follow REP-103/105 unless a field says otherwise.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Mapping

import numpy as np

#: Types of the weights that :func:`specprune_ros.policy.load_policy` takes.
DTYPES = ("float32", "bfloat16", "float16", "auto")


class Mode(IntEnum):
    """Mode of the action-aware controller; the values are those of ActionChunk.msg."""

    COARSE = 0
    FINE = 1


@dataclass(frozen=True)
class Observation:
    """What the policy sees at one instant.

    images: camera name -> uint8 [H, W, 3], RGB, upright. ``primary`` comes first, then the
        names that contain ``wrist`` in their order, as OpenVLA-OFT concatenates them.
    instruction: the task in natural language.
    proprio: [P] in the units of the checkpoint's statistics (LIBERO: position m, axis-angle rad,
        two gripper joints m), or None to leave the proprio token out.
    stamp: time of the images in seconds, or None.
    ee_twist: [6] end-effector velocity in the axes of the base frame: linear m/s, angular rad/s.
    """

    images: Mapping[str, np.ndarray]
    instruction: str
    proprio: np.ndarray | None = None
    stamp: float | None = None
    ee_twist: np.ndarray | None = None


@dataclass(frozen=True)
class CameraTokens:
    """Visual tokens of one camera through a query.

    tokens_in: patches of the camera. The three sets overlap; ``kept_static`` is the size of their
    union that left the static stage. ``kept_dynamic[i]`` is what was left after
    ``PruneReport.dynamic_layers[i]``. Where rows are kept in fixed numbers (runtime ``graph`` or
    ``static``), ``trimmed`` members of the union were dropped in the static stage to fit, or
    ``filled`` patches beyond it were kept.
    """

    name: str
    tokens_in: int
    global_set: int
    dynamic_set: int
    local_set: int
    kept_static: int
    kept_dynamic: tuple[int, ...] = ()
    trimmed: int = 0
    filled: int = 0


@dataclass(frozen=True)
class PruneReport:
    """What a query kept, and what it cost.

    kept_positions: one int64 array per decoder layer: the absolute positions (0 = BOS) of the rows
        that enter that layer, ascending. A layer that is skipped has the rows that pass by it.
    stage_ms: wall milliseconds per stage, in order of execution.
    flops: of the decoder with these rows (2 per multiply-add); dense_flops: with every row.
    query_number: 0 for the first query of an episode.
    dense_refresh: the query kept everything on purpose (first query, periodic refresh).
    cold: the query's time includes one-off work: the first of the process, or one whose program
        was not prepared.
    reused_cameras: those whose features were taken from an earlier query (``vision_reuse``).
    runtime: how it was run: ``eager`` (exact sets), ``static`` or ``graph`` (fixed numbers).
    """

    method: str
    mode: Mode
    query_number: int
    kept_positions: tuple[np.ndarray, ...]
    cameras: tuple[CameraTokens, ...]
    dynamic_layers: tuple[int, ...] = ()
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0
    dense_flops: float = 0.0
    dense_refresh: bool = False
    cold: bool = False
    runtime: str = "eager"
    reused_cameras: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    speeds: Mapping[str, float] = field(default_factory=dict)

    @property
    def visual_tokens_in(self) -> int:
        return sum(camera.tokens_in for camera in self.cameras)

    @property
    def visual_tokens_kept(self) -> int:
        """Visual tokens that enter the last decoder layer."""
        return sum(c.kept_dynamic[-1] if c.kept_dynamic else c.kept_static for c in self.cameras)

    @property
    def kept_hashes(self) -> tuple[int, ...]:
        """A 64-bit hash of the positions per decoder layer; PruneStats.msg says which."""
        return tuple(
            int.from_bytes(
                hashlib.blake2b(np.asarray(p, "<i8").tobytes(), digest_size=8).digest(), "little")
            for p in self.kept_positions
        )


    @property
    def visual_tokens_per_layer(self) -> tuple[tuple[int, ...], ...]:
        """Visual tokens that enter each decoder layer: [layer][camera]."""
        ends = np.cumsum([1, *(camera.tokens_in for camera in self.cameras)])
        return tuple(
            tuple(np.diff(np.searchsorted(positions, ends)).tolist())
            for positions in self.kept_positions
        )


@dataclass(frozen=True)
class ActionChunk:
    """A chunk of actions for consecutive control periods, starting at the observation.

    actions: float64 [C, A], un-normalised, in the convention of the checkpoint's data set
        (LIBERO: six controller units in about [-1, 1], then the gripper, 0 close, 1 open).
    normalized_actions: float32 [C, A], as the action head gave them.
    """

    actions: np.ndarray
    normalized_actions: np.ndarray
    report: PruneReport
    stamp: float | None = None
