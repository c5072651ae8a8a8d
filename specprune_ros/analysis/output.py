"""Results: JSON with where they come from, CSV, progress lines."""
from __future__ import annotations

import argparse
import csv
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from specprune_ros.analysis.inputs import Inputs
from specprune_ros.analysis.threads import thread_settings
from specprune_ros.analysis.writing import naming_failures
from specprune_ros.policy import Policy
from specprune_ros.provenance import git_commit, versions

UNTRAINED = "random weights say nothing about accuracy"
_PACKAGES = ("torch", "transformers", "numpy", "mujoco")


def provenance(args: argparse.Namespace, command: str) -> dict[str, Any]:
    """What was run, with which settings, by which versions, on which day (UTC) and machine."""
    settings = {k: v for k, v in vars(args).items() if k not in ("run", "command", "analysis")}
    return {
        "command": command,
        "settings": settings,
        "versions": {**dict.fromkeys(_PACKAGES), **versions(_PACKAGES)},
        "commit": git_commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": {"cpu": _cpu_name(), "system": platform.platform(),
                    "threads": {"torch": 1, **thread_settings()}},
    }


def stream_facts(inputs: Inputs) -> dict[str, Any]:
    """The checkpoint, the streams, and n: what every experiment on a stream states."""
    return {
        "checkpoint": checkpoint_facts(inputs.policy, inputs.checkpoint),
        "n": {"recordings": len(inputs.recordings), "queries": inputs.queries},
        "query_interval_steps": inputs.every,
        "streams": [
            {
                "source": recording.source,
                "steps": recording.steps,
                "cameras": recording.cameras,
                "picture": recording.frames.shape[2:4],
                "instruction": recording.instruction,
                "success": recording.success,
            }
            for recording in inputs.recordings
        ],
    }


def checkpoint_facts(policy: Policy, path: Path) -> dict[str, Any]:
    """Name, place and type of a checkpoint, and whether it is trained."""
    return {
        "name": checkpoint_name(policy, path),
        "path": path,
        "trained": policy.trained,
        "note": "" if policy.trained else f"untrained: {UNTRAINED}",
        "layers": policy.decoder_shape.layers,
        "device": str(policy.model.device),
        "dtype": str(policy.model.dtype).removeprefix("torch."),
    }


def checkpoint_name(policy: Policy, path: Path) -> str:
    """The name on its card, or that of its folder."""
    return str(policy.card.get("name") or Path(path).resolve().name)


def caption(policy: Policy, path: Path, n: str) -> str:
    """One line under a title: the checkpoint and n."""
    trained = "" if policy.trained else f" (untrained: {UNTRAINED})"
    return f"{checkpoint_name(policy, path)}{trained}, n = {n}"


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write JSON; missing folders are made. NaN is refused: a number that is not known is null.

    Raises ConfigurationError where the file cannot be written.
    """
    text = json.dumps(content, indent=1, default=_plain, allow_nan=False)
    with naming_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows of equal keys. Raises ConfigurationError where the file cannot be written."""
    with naming_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_rows(path, rows)
    return path


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar with the remaining time on standard error, if that is a terminal; call what it gives
    per step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn(), TextColumn("remaining"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True,
                  disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)


def counted(number: int, what: str) -> str:
    """"1 query", "2 queries"."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number} {what if number == 1 else plural}"


def queries_text(queries: int, summaries: Iterable[Mapping[str, Any]]) -> str:
    """"6 queries (2 of them dense on purpose)"; from-to where the variants differ.

    queries: that each variant makes. summaries: ``Measurement.summary()`` of each variant.
    """
    dense = sorted({summary["dense_queries"] for summary in summaries
                    if "dense_queries" in summary})
    text = counted(queries, "query")
    if not dense:
        return text
    number = str(dense[0]) if len(dense) == 1 else f"{dense[0]} to {dense[-1]}"
    return f"{text} ({number} of them dense on purpose)"


def say_written(paths: Iterable[Path]) -> None:
    """Tell on standard output where the results are."""
    Console(highlight=False, soft_wrap=True).print("wrote " + ", ".join(map(str, paths)))


def _plain(value: Any) -> Any:
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no Linux
    return platform.processor() or platform.machine()
