"""A run: what vla_node answered to a bag. A folder with run.json and queries.jsonl."""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.writing import naming_failures
from ..errors import RecordingError

FORMAT = 1
_SUMMARY, _QUERIES = "run.json", "queries.jsonl"
_NANO = 1_000_000_000
_POLICY, _HOLD = 0, 2  # ActionChunk.source
_CHUNK_FIELDS = ("episode", "query_number", "mode", "instruction", "parameter_revision", "dt",
                 "horizon", "dof")
_STATS_FIELDS = ("method", "dense_refresh", "cameras", "tokens_in", "kept_static",
                 "dynamic_layers", "kept_after_dynamic", "tokens_per_layer",
                 "translational_speed", "rotational_speed", "vertical_velocity", "flops",
                 "dense_flops", "saturated")


@dataclass(frozen=True)
class Run:
    """source: where it was read from. queries: one mapping per query, as queries.jsonl has them."""

    source: Path
    summary: Mapping[str, Any]
    queries: Sequence[Mapping[str, Any]]


def query_record(chunk: Any, stats: Any | None) -> dict[str, Any]:
    """What one query gave, from ActionChunk and PruneStats (rclpy's or rosbags' objects).

    ``time`` holds what depends on the machine; everything else is the same in every replay.
    ``stamp`` is the observation's, in ns; ``actions`` the rows of the chunk; ``kept_hashes`` are in
    hexadecimal; ``source`` is 0, or 1 where the node gave a dense chunk in the place of a pruned
    one. NaN becomes None.
    """
    rows = np.asarray(chunk.data, np.float64).reshape(chunk.horizon, chunk.dof)
    record = {"stamp": _stamp(chunk), **{name: _plain(getattr(chunk, name))
                                         for name in _CHUNK_FIELDS},
              "source": _source(chunk), "actions": _plain(rows)}
    times: dict[str, Any] = {"inference_s": float(chunk.inference_time)}
    if stats is not None:
        # A bag of an older version may lack the newer fields.
        record |= {name: _plain(getattr(stats, name)) for name in _STATS_FIELDS
                   if hasattr(stats, name)}
        record["kept_hashes"] = [f"{value:016x}" for value in getattr(stats, "kept_hashes", ())]
        record["observation_age_s"] = _plain(stats.observation_age)
        times["stages_s"] = dict(zip(map(str, stats.stage_names), _plain(stats.stage_times)))
        times["cold"] = bool(stats.cold)
    return {**record, "time": times}


def paired_records(chunks: Iterable[Any], stats: Iterable[Any]) -> list[dict[str, Any]]:
    """A record per chunk, with the stats of the same query where there are any. Holds are none."""
    by_query = {_key(message): message for message in stats}
    queries = [chunk for chunk in chunks if _source(chunk) != _HOLD]
    return [query_record(chunk, by_query.get(_key(chunk))) for chunk in queries]


def digest(queries: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over everything that does not depend on the machine's speed."""
    total = hashlib.sha256()
    for query in queries:
        total.update(json.dumps(_timeless(query), sort_keys=True).encode())
    return total.hexdigest()


def write_run(folder: Path, summary: Mapping[str, Any],
              queries: Sequence[Mapping[str, Any]]) -> None:
    """Write both files. Raises ConfigurationError where that fails."""
    with naming_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _QUERIES).open("w", encoding="utf-8") as file:
            for query in queries:
                file.write(json.dumps(query, allow_nan=False) + "\n")
    write_json(folder / _SUMMARY, {"format": FORMAT, **summary})


def as_json(content: Mapping[str, Any]) -> str:
    """Indented, with a line break at the end; NaN is refused."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file. Raises ConfigurationError where that fails."""
    with naming_failures(path):
        path.write_text(as_json(content), encoding="utf-8")


def is_run(folder: Path) -> bool:
    return (folder / _SUMMARY).is_file()


def read_run(folder: Path) -> Run:
    """Read a run. Raises RecordingError naming what is missing or broken."""
    path = folder / _SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        path = folder / _QUERIES
        queries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if summary.get("format") != FORMAT:
            raise RecordingError(f"'{folder}' has format {summary.get('format')!r}, this version "
                                 f"reads {FORMAT}: make it anew with `specprune replay`")
        for query in queries:
            _check(query)
    except FileNotFoundError:
        raise RecordingError(f"'{folder}' is no run: it has no {path.name}; `specprune replay BAG "
                             "--out FOLDER` makes one") from None
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise RecordingError(f"'{path}' cannot be read ({type(error).__name__}: {error}): make "
                             "the run anew with `specprune replay`") from error
    return Run(folder, summary, queries)


def _check(query: Any) -> None:
    actions = np.asarray(query["actions"], np.float64)
    if actions.ndim != 2 or not isinstance(query["stamp"], int):
        raise ValueError("a query has no stamp, or its actions are no rows of numbers")
    float(query["time"]["inference_s"])


def _timeless(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if name != "time"}


def _key(message: Any) -> tuple[int, int, int]:
    return (_stamp(message), int(message.episode), int(message.query_number))


def _source(chunk: Any) -> int:
    return int(getattr(chunk, "source", _POLICY))  # older bags have none


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * _NANO + int(message.header.stamp.nanosec)


def _plain(value: Any) -> Any:
    """As JSON has it: lists and Python numbers, None for NaN."""
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (int, float)):
        return None if isinstance(value, float) and not math.isfinite(value) else value
    return [_plain(item) for item in value]
