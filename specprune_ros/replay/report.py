"""Tables of runs and of their differences, and the same as JSON."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from ..types import Mode
from .diff import RunDiff

_SETTING_WIDTH = 60


def run_lines(summary: Mapping[str, Any], queries: Sequence[Mapping[str, Any]]) -> list[str]:
    """One run: counts, tokens, latency, what tells it from other runs."""
    latency = np.array([query["time"]["inference_s"] for query in queries]) * 1e3
    modes = [query["mode"] for query in queries]
    layers = [np.mean(q["tokens_per_layer"]) for q in queries if q.get("tokens_per_layer")]
    counters = summary["counters"]
    unanswered = counters["queries"] - counters["chunks"]
    rows = [
        ("queries", f"{len(queries)} in {len({q['episode'] for q in queries})} episodes"
         + (f"; {unanswered} failed or were overtaken" if unanswered else "")),
        ("pruning", f"{summary['pruning']}, checkpoint {summary['checkpoint']['path']}"),
        ("modes", ", ".join(f"{modes.count(m)} {m.name.lower()}" for m in Mode)),
        ("tokens per layer", f"{np.mean(layers):.1f} (mean)" if layers else "not reported"),
        ("inference", f"{np.percentile(latency, 50):.1f} ms p50, "
                      f"{np.percentile(latency, 95):.1f} ms p95"),
        ("clock", summary["clock"]),
        ("digest", summary["digest"]),
        *(("vla_node said", f"at {fault['time'] / 1e9:.3f} s: {fault['text']}")
          for fault in summary["faults"]),
    ]
    return [f"{name:18}{text}" for name, text in rows]


def diff_table(diff: RunDiff) -> Table:
    """Query by query."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("stamp s", "action L1", "action Linf", "mode", "tokens A", "tokens B", "change",
                 "kept sets", "time B/A"):
        table.add_column(name, justify="left" if name in ("mode", "kept sets") else "right",
                         no_wrap=True)
    for query in diff.queries:
        modes = [Mode(mode).name.lower() for mode in query.modes]
        table.add_row(
            f"{query.stamp / 1e9:.3f}", _number(query.l1), _number(query.linf),
            modes[0] if modes[0] == modes[1] else f"{modes[0]} -> {modes[1]}",
            _number(query.tokens[0], ".1f"), _number(query.tokens[1], ".1f"),
            "-" if query.token_change is None else f"{query.token_change:.1%}",
            "-" if query.kept_layers is None else (
                f"{query.kept_layers} layers differ" if query.kept_layers else "same"),
            _number(query.time_ratio, ".2f"))
    return table


def diff_lines(diff: RunDiff) -> list[str]:
    """What holds over all queries."""
    lines = [f"{name}: {_short(a)} -> {_short(b)}" for name, (a, b) in diff.settings.items()]
    return [*lines, (
        f"{len(diff.queries)} queries in both runs: action distance up to "
        f"{_number(diff.worst('linf'))} (L1 {_number(diff.worst('l1'))}), {diff.mode_changes} "
        f"mode changes, token change up to {_percent(diff.worst('token_change'))}, "
        f"time B/A {_number(diff.time_ratio, '.2f')} (median)")]


def diff_json(diff: RunDiff, problems: Sequence[str]) -> dict[str, Any]:
    """The whole comparison."""
    return {
        "within_limits": not problems,
        "problems": list(problems),
        "queries": [asdict(query) for query in diff.queries],
        "only_a": list(diff.only_a),
        "only_b": list(diff.only_b),
        "settings": {name: list(values) for name, values in diff.settings.items()},
        "max_action_linf": diff.worst("linf"),
        "max_action_l1": diff.worst("l1"),
        "max_token_change": diff.worst("token_change"),
        "mode_changes": diff.mode_changes,
        "time_ratio_median": diff.time_ratio,
    }


def _number(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SETTING_WIDTH else text[:_SETTING_WIDTH - 1] + "…"
