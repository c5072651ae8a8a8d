"""The results for people: a table for the terminal, and one HTML file with the pictures in it."""
from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from specprune_ros.eval import paper

HEADS = ("method", "success", "95 %", "diff", "p", "FLOPs", "tokens", "p50 ms", "p95 ms")
LEGEND = (
    "success: closed loop; 95 %: Wilson interval. diff: from dense, in points, on the same "
    "initial states; p: McNemar's exact test. FLOPs: of the decoder over all queries, over dense. "
    "tokens: visual ones, mean over layers and queries. p50, p95: latency of a complete query."
)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } pre { background: #f5f5f5; padding: 1em; overflow-x: auto; }
.warning { background: #fff3cd; padding: .5em 1em; }
"""


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
    """One file that needs nothing else."""
    checkpoint, states = document["checkpoint"], document["init_states"]
    title = f"specprune eval: {document['suite']}, {checkpoint['name']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{document['n']} episodes per method, initial states {states['first']} to "
        f"{states['last']} ({escape(states['kind'])}). Commit {escape(str(document['commit']))}."
        "</p>",
    ]
    if not checkpoint["trained"]:
        parts.append("<p class=warning>The checkpoint is untrained: random weights say nothing "
                     "about accuracy.</p>")
    parts += [_html_table(rows(document["methods"], document["paired"])),
              f"<p>{escape(LEGEND)}</p>"]
    parts += [f"<p class=warning>{escape(text)}</p>" for text in remarks(document["methods"])]
    for condition in document["perturbed"]:
        parts += [f"<h2>{escape(condition['label'])}</h2>",
                  _html_table(rows(condition["methods"], condition["paired"]))]
    if document.get("curve"):
        parts += ["<h2>At equal FLOPs</h2>", _html_table(point_rows(document["curve"]["points"]))]
    if document["suite"] in paper.COLUMNS:
        parts += ["<h2>In the layout of the paper</h2>",
                  _html_table(paper.paper_rows([document]), paper.HEADS),
                  f"<p>{escape(paper.LEGEND)}</p>"]
    for picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        parts.append(f'<p><img alt="{picture.stem}" src="data:image/png;base64,{data}"></p>')
    facts = {k: document[k] for k in ("settings", "versions", "machine", "checkpoint")}
    text = escape(json.dumps(facts, indent=1, default=str))
    parts.append(f"<h2>How it was run</h2><pre>{text}</pre>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts) + "\n</body></html>\n"
    )
    return path


def _html_table(body: Sequence[Sequence[str]], heads: Sequence[str] = HEADS) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "\n".join(["<table>", line(heads, "th"), *(line(row, "td") for row in body), "</table>"])
