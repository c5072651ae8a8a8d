"""Un-normalising actions and normalising proprio with ``dataset_statistics.json``.

The arithmetic is float64 and matches openvla-oft: quantile bounds (q01, q99) or min/max, a mask of
dimensions that are left alone (the gripper), and 1e-8 in the range.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

import numpy as np

from specprune_ros.errors import CheckpointError, ObservationError

_EPS = 1e-8
# Bounds by platform in openvla-oft: LIBERO and BRIDGE use quantiles, ALOHA uses min/max.
_ALOHA_ACTION_DIM = 14


@dataclass(frozen=True)
class Bounds:
    """Affine map between [-1, 1] and data units; ``mask`` false leaves a dimension unchanged."""

    low: np.ndarray  # [D] float64
    high: np.ndarray  # [D] float64
    mask: np.ndarray  # [D] bool

    @property
    def size(self) -> int:
        return len(self.low)

    def denormalize(self, values: np.ndarray) -> np.ndarray:
        """[..., D] in [-1, 1] -> data units (float64)."""
        values = np.asarray(values, dtype=np.float64)
        scaled = 0.5 * (values + 1) * (self.high - self.low + _EPS) + self.low
        return np.where(self.mask, scaled, values)

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """[D] data units -> [-1, 1], clipped (float64)."""
        values = np.asarray(values, dtype=np.float64)
        scaled = 2 * (values - self.low) / (self.high - self.low + _EPS) - 1
        return np.clip(np.where(self.mask, scaled, values), -1.0, 1.0)


@dataclass(frozen=True)
class Statistics:
    """Statistics of one data set: ``action`` and, if the data had it, ``proprio``."""

    key: str
    action: Bounds
    proprio: Bounds | None

    def normalize_proprio(self, proprio: np.ndarray) -> np.ndarray:
        """Raw proprio [P] -> [P] in [-1, 1]. Raises ObservationError if it does not fit."""
        if self.proprio is None:
            raise ObservationError(
                f"statistics '{self.key}' hold no proprio: give proprio=None"
            )
        try:
            proprio = np.asarray(proprio, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ObservationError(f"proprio is not numeric: {error}") from None
        if proprio.shape != (self.proprio.size,):
            raise ObservationError(
                f"proprio has shape {proprio.shape}, the statistics '{self.key}' expect "
                f"({self.proprio.size},)"
            )
        if not np.isfinite(proprio).all():
            raise ObservationError(f"proprio holds non-finite values: {proprio.tolist()}")
        return self.proprio.normalize(proprio)


def select_statistics(
    table: Mapping[str, Any], unnorm_key: str | None, action_dim: int | None = None
) -> Statistics:
    """Pick the statistics of one data set.

    unnorm_key may be a key, or a LIBERO suite name whose key carries ``_no_noops``; None is allowed
    where the table has one key. Raises CheckpointError, listing the keys, otherwise.
    """
    keys = sorted(table)
    if unnorm_key is None:
        if len(keys) != 1:
            raise CheckpointError(
                f"dataset_statistics.json has {len(keys)} data sets ({', '.join(keys)}): "
                "choose one with unnorm_key"
            )
        unnorm_key = keys[0]
    elif unnorm_key not in table:
        if f"{unnorm_key}_no_noops" not in table:
            raise CheckpointError(
                f"unnorm_key '{unnorm_key}' is not in dataset_statistics.json; "
                f"it has: {', '.join(keys)}"
            )
        unnorm_key = f"{unnorm_key}_no_noops"
    entry = table[unnorm_key]
    if not isinstance(entry, Mapping) or "action" not in entry:
        raise CheckpointError(f"dataset_statistics.json: '{unnorm_key}' has no 'action' entry")
    action = _bounds(entry["action"], f"{unnorm_key}.action", action_dim)
    proprio = None
    if "proprio" in entry:
        proprio = _bounds(entry["proprio"], f"{unnorm_key}.proprio", action_dim)
    return Statistics(unnorm_key, action, proprio)


def _bounds(entry: Mapping[str, Any], name: str, action_dim: int | None) -> Bounds:
    low_name, high_name = ("min", "max") if action_dim == _ALOHA_ACTION_DIM else ("q01", "q99")
    try:
        low = np.asarray(entry[low_name], dtype=np.float64)
        high = np.asarray(entry[high_name], dtype=np.float64)
    except KeyError as missing:
        raise CheckpointError(f"dataset_statistics.json: {name} has no {missing}") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"dataset_statistics.json: {name} is not numeric: {error}") from None
    if low.ndim != 1:
        raise CheckpointError(f"dataset_statistics.json: {name}.{low_name} is not a list")
    given = entry.get("mask", [True] * len(low))
    if not isinstance(given, list) or not all(isinstance(flag, bool) for flag in given):
        raise CheckpointError(f"dataset_statistics.json: {name}.mask is not a list of true/false")
    mask = np.asarray(given, dtype=bool)
    if not (low.shape == high.shape == mask.shape and low.ndim == 1):
        raise CheckpointError(
            f"dataset_statistics.json: {name} has lists of different lengths "
            f"({low_name} {low.shape}, {high_name} {high.shape}, mask {mask.shape})"
        )
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (high >= low).all()):
        raise CheckpointError(
            f"dataset_statistics.json: {name} needs finite bounds with {low_name} <= {high_name}"
        )
    return Bounds(low, high, mask)
