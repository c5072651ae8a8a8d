"""What a demo run measured: collected from the topics, summed up for JSON and for the table."""
from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import CheckpointError
from ..types import Mode

_DISTRIBUTIONS = ("rclpy", "torch", "transformers", "mujoco", "numpy")


@dataclass
class Tally:
    """Counts of a run, filled by the monitor while it goes on.

    latencies_s: inference time of each chunk. kept: visual tokens left after the last stage, per
    query. dense: visual tokens of a query that prunes nothing.
    """

    chunks: int = 0
    queries: int = 0
    episodes: int = 0
    successes: int = 0
    latencies_s: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    dense: int = 0
    modes: Counter = field(default_factory=Counter)
    mode: str = ""  # of the last query

    def add_chunk(self, inference_time: float) -> None:
        self.chunks += 1
        self.latencies_s.append(inference_time)

    def add_stats(self, tokens_in: list[int], kept_static: list[int],
                  kept_after_dynamic: list[int], mode: int) -> None:
        """The counts of one PruneStats message, by camera (kept_after_dynamic: layer by camera)."""
        self.queries += 1
        cameras = len(tokens_in)
        last = kept_after_dynamic[-cameras:] if len(kept_after_dynamic) else kept_static
        self.kept.append(int(sum(last)))
        self.dense = int(sum(tokens_in))
        self.mode = Mode(mode).name.lower()
        self.modes[self.mode] += 1

    def latency_ms(self, percent: float) -> float | None:
        """Percentile of the latency in milliseconds; None without a chunk."""
        if not self.latencies_s:
            return None
        return round(float(np.percentile(self.latencies_s, percent)) * 1000.0, 3)

    def kept_mean(self) -> float | None:
        return round(float(np.mean(self.kept)), 2) if self.kept else None

    def mode_shares(self) -> dict[str, float]:
        """Share of the queries per mode of the controller; both modes are always named."""
        total = sum(self.modes.values())
        return {mode.name.lower(): round(self.modes[mode.name.lower()] / total, 4) if total else 0.0
                for mode in Mode}


def checkpoint_facts(directory: Path) -> tuple[str, bool | None]:
    """Name and ``trained`` of a checkpoint: from its specprune.json; (folder, None) without one.

    Raises:
        CheckpointError: the file cannot be read as JSON.
    """
    path = directory / "specprune.json"
    if not path.is_file():
        return directory.name, None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return str(facts.get("name", directory.name)), facts.get("trained")


def versions() -> dict[str, str]:
    """Versions of what a figure may depend on; packages that are not installed are left out."""
    found = {"specprune_ros": __version__, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def as_json(tally: Tally, *, seconds: float, checkpoint: str, trained: bool | None, pruning: str,
            suite: str, processes: list[tuple[str, int]]) -> dict[str, object]:
    """The result file: counts first, then what they depend on. ``processes``: name and pid."""
    return {
        "chunks": tally.chunks,
        "queries": tally.queries,
        "episodes": tally.episodes,
        "successes": tally.successes,
        "latency_ms": {"p50": tally.latency_ms(50), "p95": tally.latency_ms(95)},
        "kept_visual_tokens_mean": tally.kept_mean(),
        "dense_visual_tokens": tally.dense,
        "mode_shares": tally.mode_shares(),
        "seconds": round(seconds, 2),
        "checkpoint": checkpoint,
        "trained": trained,
        "pruning": pruning,
        "suite": suite,
        "processes": [{"name": name, "pid": pid} for name, pid in processes],
        "versions": versions(),
    }
