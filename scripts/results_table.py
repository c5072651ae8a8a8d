#!/usr/bin/env python3
"""Put the figures of docs/results/*.json (and bench/results/*.json) into README.md and docs.

    python3 scripts/results_table.py [--check]

What stands between ``<!-- results:begin KIND -->`` and ``<!-- results:end -->`` is made anew; no
figure is written by hand. KIND: none for dense, pruned and the random control; ``methods`` for
every method; ``bench`` for speed; or the name of one file, without ``.json``. Of several
evaluations of a suite the one with the most episodes is shown. ``--check`` writes nothing and ends
with status 1 where a block is out of date.
"""
from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/comparison.md", "docs/evaluation.md")
RESULTS = ("docs/results", "bench/results")
SHORT = ("off", "specprune", "random")
SUITES = ("tabletop", "tabletop_hard", "tabletop_shift", "libero_spatial", "libero_object",
          "libero_goal", "libero_10", "libero_90")
BLOCK = re.compile(r"(<!-- results:begin ?([\w-]*) -->\n).*?(<!-- results:end -->)", re.DOTALL)
# Options of the two commands that decide about a result, in the order they are told.
OPTIONS = {
    "eval": ("suite", "methods", "episodes", "seed", "checkpoint", "device", "dtype", "perturb",
             "match_flops", "replan", "max_steps", "workers", "through_ros"),
    "bench": ("device", "model", "arms", "dtype", "runtime", "scene", "mode"),
}
QUIET = (None, False, [], "")
DEFAULTS = {"dtype": "float32", "runtime": "auto", "scene": "static", "mode": "coarse"}


def load(root: Path = ROOT) -> list[tuple[str, dict[str, Any]]]:
    """(path, content) of every result, sorted by path."""
    files = [path for folder in RESULTS for path in sorted((root / folder).glob("*.json"))]
    return [(path.relative_to(root).as_posix(), json.loads(path.read_text())) for path in files]


def evaluations(results: Iterable[tuple[str, dict]]) -> list[tuple[str, dict[str, Any]]]:
    """The largest evaluation of each suite, on initial states for results, of trained weights."""
    best: dict[str, tuple[str, dict[str, Any]]] = {}
    for path, data in results:
        if (data.get("command") != "eval" or data["init_states"]["kind"] != "held out"
                or not data["checkpoint"]["trained"] or data["through_ros"]):
            continue
        if data["suite"] not in best or data["n"] > best[data["suite"]][1]["n"]:
            best[data["suite"]] = (path, data)
    return [best[suite] for suite in SUITES if suite in best]


def evaluation_table(found: Sequence[tuple[str, dict]], methods: Sequence[str] | None
                     ) -> Iterator[str]:
    """One row per suite and method; methods None: all of each evaluation."""
    if not found:
        yield "No evaluation has been recorded yet."
        return
    yield ("| suite | method | success | 95 % interval | against dense | visual tokens per layer "
           "| decoder FLOPs | CPU time of a query, ms | latency p50 / p95, ms |")
    yield "|---|---|---|---|---|---|---|---|---|"
    for _, data in found:
        for name in methods or data["methods"]:
            if name in data["methods"]:
                yield evaluation_row(data, name)
    yield ""
    for path, data in found:
        yield origin(path, data)


def evaluation_row(data: dict[str, Any], name: str) -> str:
    method = data["methods"][name]
    if "unavailable" in method:
        return f"| `{data['suite']}` | `{name}` | {method['unavailable']} | | | | | | |"
    low, high = (100 * x for x in method["ci95"])
    pair = data.get("paired", {}).get(name)
    against = ""
    if pair:
        first, last = (100 * x for x in pair["ci95"])
        against = (f"{100 * pair['difference']:+.1f} points ({first:+.1f} to {last:+.1f}), "
                   f"p = {pair['p']:.2g}")
    cpu, latency = method.get("cpu_ms"), method["latency_ms"]
    return " | ".join([
        f"| `{data['suite']}`", f"`{name}`", f"{method['successes']}/{method['n']}",
        f"{low:.0f} to {high:.0f} %", against, f"{method['kept_visual_tokens_mean']:.0f}",
        f"{100 * method['decoder_flops_ratio']:.0f} %", f"{cpu['p50']:.0f}" if cpu else "",
        f"{latency['p50']:.0f} / {latency['p95']:.0f} |",
    ])


def bench_table(results: Iterable[tuple[str, dict]]) -> Iterator[str]:
    """One row per arm of every benchmark, and the ratios."""
    found = [(path, data) for path, data in results if data.get("command") == "bench"]
    if not found:
        yield "No benchmark has been recorded yet."
        return
    yield ("| device | model | arm | query, ms (IQR) | decoder, ms (IQR) | decoder, GFLOP "
           "| rows, first and last layer |")
    yield "|---|---|---|---|---|---|---|"
    for _, data in found:
        cuda = data["device"] == "cuda"
        for name, arm in data["arms"].items():
            query = arm["cuda_ms"] if cuda else arm["query_cpu_ms"]
            decoder = "" if cuda else spread(arm["cpu_ms"])
            rows = arm["tokens_per_layer"]
            device = data["device_facts"]["name"] if cuda else data["machine"]["cpu"]
            yield (f"| {device} | {data['model']['name']}, "
                   f"{data['model']['dtype']} | {name}: {arm['text']} | {spread(query)} "
                   f"| {decoder} | {arm['flops'] / 1e9:.1f} | {rows[0]:.0f}, {rows[-1]:.0f} |")
    yield ""
    for path, data in found:
        ratios = ", ".join(f"{name} {value:.2f}" for name, value in data["ratios"].items()
                           if value is not None)
        yield f"{origin(path, data)} Ratios: {ratios}."


def spread(times: dict[str, float]) -> str:
    return f"{times['median']:.1f} ({times['iqr']:.1f})"


def origin(path: str, data: dict[str, Any]) -> str:
    """Where a result comes from: file, device, commit, day, command."""
    device = data["machine"]["cpu"]
    if data.get("device") == "cuda":
        device = data["device_facts"]["name"]
    elif data.get("checkpoint", {}).get("device", "cpu") != "cpu":
        device = data["checkpoint"]["device"]
    commit = (data["commit"] or "unknown")[:8] + ("-dirty" if "-dirty" in (data["commit"] or "")
                                                  else "")
    states = ""
    if "init_states" in data:
        states = f" initial states {data['init_states']['first']} to {data['init_states']['last']},"
    day = f", {data['date']}" if data.get("date") else ""
    return (f"* [{path}]({path}):{states} {device}, torch {data['versions']['torch']}, commit "
            f"{commit}{day}, `{command(data)}`.")


def command(data: dict[str, Any]) -> str:
    """The command line, as far as it decided about the result."""
    words = [f"specprune {data['command']}"]
    for option in OPTIONS[data["command"]]:
        value = data["settings"].get(option)
        if value in QUIET or value == DEFAULTS.get(option):
            continue
        if option == "device" and value == "cpu" and data["command"] == "eval":
            continue
        flag = f"--{option.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            words.append(flag if item is True else f"{flag} {item}")
    return " ".join(words)


def block(kind: str, results: Sequence[tuple[str, dict]]) -> str:
    """The lines of a kind of block."""
    named = [(path, data) for path, data in results if Path(path).stem == kind]
    if kind in ("", "methods"):
        lines = evaluation_table(evaluations(results), None if kind else SHORT)
    elif kind == "bench" or named and named[0][1].get("command") == "bench":
        lines = bench_table(named or results)
    elif named:
        lines = evaluation_table(named, None)
    else:
        raise SystemExit(f"results block '{kind}': neither a kind nor a file of {RESULTS}")
    return "\n".join(lines) + "\n"


def renewed(text: str, results: Sequence[tuple[str, dict]], folder: str = "") -> str:
    """A page with its blocks made anew. folder: of the page, for the links."""
    def fill(match: re.Match) -> str:
        lines = block(match[2], results)
        if folder:
            lines = re.sub(r"\]\((docs|bench)/", lambda m: "](" + {
                "docs": "", "bench": "../bench/"}[m[1]], lines)
        return match[1] + lines + match[3]

    return BLOCK.sub(fill, text)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only tell what is out of date")
    check = parser.parse_args(arguments).check
    results, stale = load(root), []
    for page in PAGES:
        path = root / page
        text = path.read_text()
        new = renewed(text, results, "docs" if page.startswith("docs/") else "")
        if new != text:
            stale.append(page)
            if not check:
                path.write_text(new)
    for page in stale:
        sys.stderr.write(f"{page}: " + ("out of date, run `make results`\n" if check
                                        else "figures renewed\n"))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
