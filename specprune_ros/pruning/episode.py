"""The state of one episode: explicit, replaced as a whole after a successful query."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specprune_ros.pruning.controller import ControllerState
from specprune_ros.pruning.frames import Frame, FrameRing


@dataclass(frozen=True)
class EpisodeState:
    """What the next query may look back at. Immutable: a failed query leaves it as it was.

    history: belongs to the pruner (scores of the previous query, a key/value cache, ...) and is
        dropped when the pruner, the prompt or the cameras change.
    last_query: frame of the previous query. last_actions: [C, A] of the previous chunk.
    """

    ring: FrameRing
    controller: ControllerState = field(default_factory=ControllerState)
    query_number: int = 0
    last_query: Frame | None = None
    last_actions: np.ndarray | None = None
    history: Any = None
    history_key: tuple = ()


class Episode:
    """Holder of an episode's state; several may interleave on one policy. Not thread-safe."""

    def __init__(self, control_period: float) -> None:
        self._period = control_period
        self.state = EpisodeState(FrameRing(control_period))

    def reset(self) -> None:
        """Forget everything: the next query is the first of an episode."""
        self.state = EpisodeState(FrameRing(self._period))
