"""The action-aware controller: prune less (fine) when the motion is slow and precise.

Pure functions over SI speeds. In LIBERO's controller units one unit per 20 Hz period is 0.05 m,
that is 1 m/s, and 0.5 rad, that is 10 rad/s.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from specprune_ros.errors import ActionError, ObservationError
from specprune_ros.pruning.config import ControllerConfig
from specprune_ros.types import Mode

TRANSLATION_UNIT = 0.05  # m per controller unit (robosuite OSC_POSE in LIBERO)
ROTATION_UNIT = 0.5  # rad per controller unit

_TOLERANCE = 1e-6  # s; a time that is up to rounding up is up


@dataclass(frozen=True)
class Speeds:
    """Norms of a twist: translation m/s, rotation rad/s, horizontal m/s, vertical m/s (up > 0)."""

    translation: float = math.nan
    rotation: float = math.nan
    horizontal: float = math.nan
    vertical: float = math.nan

    @property
    def known(self) -> bool:
        values = (self.translation, self.rotation, self.horizontal, self.vertical)
        return all(map(math.isfinite, values))


def speeds_of_twist(twist: np.ndarray) -> Speeds:
    """Speeds of a twist [6] in the axes of a frame whose z points up. Raises ObservationError."""
    try:
        twist = np.asarray(twist, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ObservationError(f"ee_twist is not numeric: {error}") from None
    if twist.shape != (6,):
        raise ObservationError(f"ee_twist has shape {twist.shape}, expected (6,)")
    if not np.isfinite(twist).all():
        raise ObservationError(f"ee_twist holds non-finite values: {twist.tolist()}")
    return Speeds(
        translation=float(np.linalg.norm(twist[:3])),
        rotation=float(np.linalg.norm(twist[3:])),
        horizontal=float(np.linalg.norm(twist[:2])),
        vertical=float(twist[2]),
    )


def twist_of_action(action: np.ndarray, control_period: float) -> np.ndarray:
    """Commanded twist [6] (m/s, rad/s) of one delta-pose action in controller units.

    Raises ActionError for fewer than six dimensions or values that are not finite.
    """
    action = np.asarray(action, dtype=np.float64)
    if action.ndim != 1 or len(action) < 6:
        raise ActionError(f"an action has shape {action.shape}, expected six or more dimensions")
    if not np.isfinite(action[:6]).all():
        raise ActionError(f"an action holds non-finite values: {action.tolist()}")
    scale = np.repeat([TRANSLATION_UNIT, ROTATION_UNIT], 3)
    return action[:6] * scale / control_period


def low_pass(
    previous: np.ndarray | None, twist: np.ndarray, elapsed: float, time_constant: float
) -> np.ndarray:
    """First-order filter of a twist whose gain follows the real interval (s), as stamps jitter.

    Vectors are filtered, not their norms: noise makes a norm larger on average. Nothing is
    filtered without a previous value, with a time constant of 0, or where time went backward.
    """
    if previous is None or time_constant == 0 or elapsed < 0:
        return twist
    return previous + -math.expm1(-elapsed / time_constant) * (twist - previous)


@dataclass(frozen=True)
class Motion:
    """How the end effector moved since the previous query: displacement m, path m, duration s."""

    displacement: tuple[float, ...] = (0.0, 0.0, 0.0)
    path: float = 0.0
    duration: float = 0.0

    def then(self, twist: np.ndarray, seconds: float) -> Motion:
        """The motion with a twist [6] that lasted so long."""
        if seconds <= 0:
            return self
        step = np.asarray(twist, dtype=np.float64)[:3] * seconds
        return Motion(
            tuple((np.asarray(self.displacement) + step).tolist()),
            self.path + float(np.linalg.norm(step)),
            self.duration + seconds,
        )

    def in_units(self, kind: Literal["mean", "net"], control_period: float) -> float:
        """The v of the frame interval, in controller units; NaN where nothing is known.

        ``mean``: path per control period; ``net``: length of the displacement.
        """
        if self.duration == 0:
            return math.nan
        if kind == "net":
            return float(np.linalg.norm(self.displacement)) / TRANSLATION_UNIT
        return self.path / self.duration * control_period / TRANSLATION_UNIT


@dataclass(frozen=True)
class ControllerState:
    """mode in force, the stamp (s) of its last change, and what it was last judged by.

    start, stamp: of the first and the last judgement (s). twist: the filtered one, [6].
    """

    mode: Mode = Mode.COARSE
    since: float | None = None
    speeds: Speeds = Speeds()
    start: float | None = None
    stamp: float | None = None
    twist: np.ndarray | None = None


def update(
    state: ControllerState,
    config: ControllerConfig,
    speeds: Speeds,
    stamp: float,
    chunk_end: bool = True,
) -> ControllerState:
    """Judge the mode by new speeds at a stamp in seconds.

    chunk_end: no action of the chunk is left (see ``exit_at_chunk_end``). A stamp that goes back
    starts the waiting times anew. Raises ObservationError for speeds that are not finite.
    """
    if not speeds.known:
        raise ObservationError(f"the end-effector speeds are not finite: {speeds}")
    start, since = (t if t is None or t <= stamp else stamp for t in (state.start, state.since))
    start = stamp if start is None else start
    state = replace(state, speeds=speeds, stamp=stamp, start=start, since=since)
    if not config.enabled:
        return replace(state, mode=Mode.COARSE)
    if stamp - start < config.warm_up - _TOLERANCE:
        return state
    if since is not None and stamp - since < config.min_dwell - _TOLERANCE:
        return state
    if state.mode is Mode.COARSE:
        return replace(state, mode=Mode.FINE, since=stamp) if _enters(config, speeds) else state
    if config.exit_at_chunk_end and not chunk_end:
        return state
    return replace(state, mode=Mode.COARSE, since=stamp) if _leaves(config, speeds) else state


def _enters(config: ControllerConfig, speeds: Speeds) -> bool:
    if config.rule == "release":
        return speeds.translation < config.enter_translation or (
            speeds.horizontal < config.enter_horizontal
            and speeds.vertical < config.enter_vertical
            and speeds.rotation < config.enter_rotation
        )
    return (
        speeds.translation < config.enter_translation
        and speeds.rotation < config.enter_rotation
        and speeds.vertical <= config.enter_vertical
    )


def _leaves(config: ControllerConfig, speeds: Speeds) -> bool:
    if config.rule == "release":
        return speeds.vertical > config.exit_vertical or speeds.rotation > config.exit_rotation
    return (
        speeds.translation > config.exit_translation or speeds.rotation > config.exit_rotation
    )
