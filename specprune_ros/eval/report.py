"""The results for people: a table for the terminal, and one HTML file with the pictures in it."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from specprune_ros.eval import paper
from specprune_ros.report import Report

HEADS = ("method", "success", "95 %", "diff", "p", "FLOPs", "tokens", "p50 ms", "p95 ms")
LEGEND = (
    "success: closed loop; 95 %: Wilson interval. diff: from dense, in points, on the same "
    "initial states; p: McNemar's exact test. FLOPs: of the decoder over all queries, over dense. "
    "tokens: visual ones, mean over layers and queries. p50, p95: latency of a complete query."
)

_CAPTIONS = {
    "success": "Success in closed loop, with Wilson 95 % intervals",
    "kept_tokens": "Visual tokens that enter each decoder layer, mean over queries",
    "latency": "Latency of a query, and decoder FLOPs over dense",
    "curve": "Success against decoder FLOPs",
}


def rows(methods: Mapping[str, Any], paired: Mapping[str, Any]) -> list[list[str]]:
    """One row of HEADS per method."""
    found = []
    for name, m in methods.items():
        if "unavailable" in m:
            found.append([name, "not available", *[""] * (len(HEADS) - 2)])
            continue
        against = paired.get(name)
        low, high = m["ci95"]
        found.append([
            name,
            f"{m['successes']}/{m['n']}",
            f"{100 * low:.0f}-{100 * high:.0f}",
            f"{100 * against['difference']:+.1f}" if against else "",
            f"{against['p']:.2g}" if against else "",
            f"{m['decoder_flops_ratio']:.3f}",
            f"{m['kept_visual_tokens_mean']:.0f}",
            f"{m['latency_ms']['p50']:.1f}",
            f"{m['latency_ms']['p95']:.1f}",
        ])
    return found


def remarks(methods: Mapping[str, Any]) -> list[str]:
    """What is to be known about the figures of methods, in sentences."""
    found = []
    for name, m in methods.items():
        if "unavailable" in m:
            found.append(f"{name} is not available: {m['unavailable']}")
        elif m["fallbacks"]:
            found.append(f"{name}: {m['fallbacks']} queries were answered dense in its place, as "
                         "vla_node does where a query fails or its guard refuses the chunk")
    return found


def table(title: str, methods: Mapping[str, Any], paired: Mapping[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, head in enumerate(HEADS):
        shown.add_column(head, justify="right" if number else "left", no_wrap=True)
    for row in rows(methods, paired):
        shown.add_row(*row)
    return shown


def point_rows(points: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The points of the curve as rows of HEADS; a method's name goes with its target."""
    methods, compared = {}, {}
    for p in points:
        if p["target"] is not None:
            name = f"{p['method']} @ {p['target']:g}"
            if not p.get("reached", True):
                name += " (not reached)"
            methods[name] = p
            if "paired" in p:
                compared[name] = p["paired"]
    return rows(methods, compared)


def write_html(path: Path, document: Mapping[str, Any], pictures: Sequence[Path]) -> Path:
    """One file that needs nothing else. pictures: as ``plots.draw`` names them."""
    checkpoint, states = document["checkpoint"], document["init_states"]
    report = Report(
        f"specprune eval: {document['suite']}, {checkpoint['name']}",
        f"{document['n']} episodes per method, initial states {states['first']} to "
        f"{states['last']} ({states['kind']}). Commit {document['commit']}.")
    report.section("Success and cost")
    if not checkpoint["trained"]:
        report.warning("The checkpoint is untrained: random weights say nothing about accuracy.")
    report.table(HEADS, rows(document["methods"], document["paired"])).text(LEGEND)
    for text in remarks(document["methods"]):
        report.warning(text)
    for condition in document["perturbed"]:
        report.section(condition["label"])
        report.table(HEADS, rows(condition["methods"], condition["paired"]))
    if document.get("curve"):
        report.section("At equal FLOPs")
        report.table(HEADS, point_rows(document["curve"]["points"]))
    if document["suite"] in paper.COLUMNS:
        report.section("In the layout of the paper")
        report.table(paper.HEADS, paper.paper_rows([document])).text(paper.LEGEND)
    if pictures:
        report.section("Pictures")
    for picture in pictures:
        report.picture(picture, _CAPTIONS.get(picture.stem, picture.stem.replace("_", " ")))
    return report.origin(document).write(path)
