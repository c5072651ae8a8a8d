"""The state of one episode: explicit, replaced as a whole after a successful query."""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specprune_ros.pruning.config import ControllerConfig
from specprune_ros.pruning.controller import (
    ControllerState,
    Motion,
    low_pass,
    speeds_of_twist,
    twist_of_action,
    update,
)
from specprune_ros.pruning.frames import Frame, FrameRing
from specprune_ros.types import Mode


@dataclass(frozen=True)
class EpisodeState:
    """What the next query may look back at. Immutable: a failed query leaves it as it was.

    history: belongs to the pruner (scores of the previous query, a key/value cache, ...) and is
        dropped when the pruner, the prompt or the cameras change.
    last_query: frame of the previous query. last_actions: [C, A] of the previous chunk, of which
        the controller has judged ``rows_judged``. motion: since the previous query.
    vision: features of cameras that may be used again (``runtime.reuse``), or None.
    replan: the controller asked for a new query before the chunk is played (see
        ``ControllerConfig.replan``).
    """

    ring: FrameRing
    controller: ControllerState = field(default_factory=ControllerState)
    motion: Motion = Motion()
    query_number: int = 0
    last_query: Frame | None = None
    last_actions: np.ndarray | None = None
    rows_judged: int = 0
    replan: bool = False
    history: Any = None
    history_key: tuple = ()
    vision: Any = None

    def rewound(self, stamp: float) -> EpisodeState:
        """The state for a query at a stamp: without what would lie in its future.

        A stamp before the previous query's means that time was set back.
        """
        if self.last_query is None or stamp >= self.last_query.stamp:
            return self
        return replace(
            self,
            controller=ControllerState(self.controller.mode),
            motion=Motion(),
            last_query=None,
            last_actions=None,
            rows_judged=0,
            history=None,
        )

    def judged(
        self,
        config: ControllerConfig,
        stamp: float,
        twist: np.ndarray | None = None,
        action: np.ndarray | None = None,
        at_query: bool = False,
    ) -> EpisodeState:
        """The state after what is known of the motion up to a stamp (s).

        twist: [6] measured. action: [A] executed last; without one, the rows of the previous chunk
        count as executed, one per control period. Which of them counts is the config's ``source``.
        Raises ObservationError or ActionError for values that cannot be used.
        """
        period = self.ring.period
        if twist is not None:
            speeds_of_twist(twist)  # bad values are an error also where commands count
        if twist is not None and config.source != "commanded":
            last = self.controller.stamp
            elapsed = stamp - last if last is not None else -math.inf
            twist = low_pass(
                self.controller.twist, np.asarray(twist, float), elapsed, config.time_constant
            )
            state = self._moved(config, stamp, twist, elapsed, at_query)
            return replace(state, rows_judged=self._rows_played(stamp))
        if config.source == "measured":
            return self
        if action is not None:
            state = self._moved(config, stamp, twist_of_action(action, period), period, at_query)
            return replace(state, rows_judged=_rows(self.last_actions))
        return self._judged_by_chunk(config, stamp, at_query)

    def _judged_by_chunk(
        self, config: ControllerConfig, stamp: float, at_query: bool
    ) -> EpisodeState:
        state, period, played = self, self.ring.period, self._rows_played(stamp)
        for row in range(self.rows_judged, played):
            twist = twist_of_action(self.last_actions[row], period)
            end = self.last_query.stamp + (row + 1) * period
            state = state._moved(config, end, twist, period, at_query and row == played - 1)
        if state is self and at_query and config.exit_at_chunk_end and self.controller.speeds.known:
            # Every action was judged on its way; what is new is that none is left.
            judged = update(self.controller, config, self.controller.speeds, stamp)
            state = replace(self, controller=judged)
        return replace(state, rows_judged=max(played, self.rows_judged))

    def _moved(
        self, config: ControllerConfig, stamp: float, twist: np.ndarray, seconds: float,
        at_query: bool,
    ) -> EpisodeState:
        before = self.controller
        after = update(before, config, speeds_of_twist(twist), stamp, chunk_end=at_query)
        became_fine = before.mode is Mode.COARSE and after.mode is Mode.FINE
        left = self.last_actions is not None and self._rows_played(stamp) < len(self.last_actions)
        return replace(
            self,
            controller=replace(after, twist=twist),
            motion=self.motion.then(twist, seconds),
            replan=self.replan or (config.replan and became_fine and left and not at_query),
        )

    def _rows_played(self, stamp: float) -> int:
        """Actions of the previous chunk that had been played by a stamp, to the nearest one."""
        if self.last_query is None or self.last_actions is None:
            return 0
        periods = math.floor((stamp - self.last_query.stamp) / self.ring.period + 0.5)
        return max(0, min(periods, len(self.last_actions)))

    def after_query(
        self, frame: Frame, actions: np.ndarray, history: Any, history_key: tuple,
        vision: Any = None,
    ) -> EpisodeState:
        """The state after a successful query: what the next one looks back at."""
        return replace(
            self,
            motion=Motion(),
            query_number=self.query_number + 1,
            last_query=frame,
            last_actions=actions,
            rows_judged=0,
            replan=False,
            history=history,
            history_key=history_key,
            vision=vision,
        )


def _rows(actions: np.ndarray | None) -> int:
    return 0 if actions is None else len(actions)


class Episode:
    """Holder of an episode's state; several may interleave on one policy. Not thread-safe."""

    def __init__(self, control_period: float) -> None:
        self._period = control_period
        self.state = EpisodeState(FrameRing(control_period))

    def reset(self) -> None:
        """Forget everything: the next query is the first of an episode."""
        self.state = EpisodeState(FrameRing(self._period))
