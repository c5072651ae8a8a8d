"""The action-aware controller: prune less (fine) when the motion is slow and precise.

Pure functions over SI speeds. In LIBERO's controller units one unit per 20 Hz period is 0.05 m,
that is 1 m/s, and 0.5 rad, that is 10 rad/s.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from specprune_ros.errors import ObservationError
from specprune_ros.pruning.config import ControllerConfig
from specprune_ros.types import Mode

TRANSLATION_UNIT = 0.05  # m per controller unit (robosuite OSC_POSE in LIBERO)
ROTATION_UNIT = 0.5  # rad per controller unit


@dataclass(frozen=True)
class Speeds:
    """Norms of a twist: translation m/s, rotation rad/s, horizontal m/s, vertical m/s (up > 0)."""

    translation: float = math.nan
    rotation: float = math.nan
    horizontal: float = math.nan
    vertical: float = math.nan

    @property
    def known(self) -> bool:
        return not math.isnan(self.translation)


def speeds_of_twist(twist: np.ndarray) -> Speeds:
    """Speeds of a twist [6] in the axes of a frame whose z points up. Raises ObservationError."""
    twist = np.asarray(twist, dtype=np.float64)
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
    """Commanded twist [6] (m/s, rad/s) of one delta-pose action in controller units."""
    scale = np.repeat([TRANSLATION_UNIT, ROTATION_UNIT], 3)
    return np.asarray(action, dtype=np.float64)[:6] * scale / control_period


@dataclass(frozen=True)
class ControllerState:
    """mode in force, the stamp (s) since when, and the speeds it was last judged by."""

    mode: Mode = Mode.COARSE
    since: float | None = None
    speeds: Speeds = Speeds()


def update(
    state: ControllerState, config: ControllerConfig, speeds: Speeds, stamp: float
) -> ControllerState:
    """Judge the mode by new speeds at a stamp in seconds."""
    if not config.enabled:
        return ControllerState(Mode.COARSE, state.since, speeds)
    since = stamp if state.since is None else state.since
    if state.since is not None and stamp - since < config.min_dwell:
        return replace(state, speeds=speeds)
    change = _enters_fine(config, speeds) if state.mode is Mode.COARSE else _leaves_fine(
        config, speeds
    )
    if not change:
        return ControllerState(state.mode, since, speeds)
    other = Mode.FINE if state.mode is Mode.COARSE else Mode.COARSE
    return ControllerState(other, stamp, speeds)


def _enters_fine(config: ControllerConfig, speeds: Speeds) -> bool:
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


def _leaves_fine(config: ControllerConfig, speeds: Speeds) -> bool:
    if config.rule == "release":
        return speeds.vertical > config.exit_vertical or speeds.rotation > config.exit_rotation
    return (
        speeds.translation > config.exit_translation or speeds.rotation > config.exit_rotation
    )
