"""One self-contained page: sections with text, tables and embedded pictures."""
from __future__ import annotations

import base64
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from specprune_ros.analysis.writing import naming_failures
from specprune_ros.report.style import STYLE

#: Parts of a document that say how it came about, not what was found.
_FACTS = ("settings", "versions", "commit", "machine", "checkpoint")
_KINDS = {".png": "image/png", ".svg": "image/svg+xml"}


def command_line() -> str:
    """The command that this process was started with; empty if it is not ``specprune``."""
    program = Path(sys.argv[0])
    if program.stem == "specprune" or program.parts[-2:] == ("specprune_ros", "cli.py"):
        return shlex.join(["specprune", *sys.argv[1:]])
    return ""


class Report:
    """Collects the parts of a page in order. All text is escaped; a table's cells are text."""

    def __init__(self, title: str, lead: str = "") -> None:
        self._title, self._lead = title, lead
        self._sections: list[tuple[str, list[str]]] = []

    def section(self, heading: str) -> Report:
        """What follows is under this heading."""
        self._sections.append((heading, []))
        return self

    def text(self, text: str) -> Report:
        return self._add(f'<p class="note">{escape(text)}</p>')

    def warning(self, text: str) -> Report:
        """Something that whoever reads the figures must know."""
        return self._add(f'<p class="warning">{escape(text)}</p>')

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[object]],
              caption: str = "") -> Report:
        """A table; numbers are shown as :func:`shown` writes them, columns of words flush left."""
        cells = [[shown(cell) for cell in row] for row in rows]
        words = [' class="words"' if _are_words([row[k] for row in cells]) else ""
                 for k in range(len(heads))]
        head = "".join(f'<th scope="col"{kind}>{escape(text)}</th>'
                       for text, kind in zip(heads, words))
        body = "\n".join(
            "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, words))
            + "</tr>" for row in cells)
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        return self._add(f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n'
                         f"<tbody>{body}</tbody></table></div>")

    def records(self, rows: Sequence[Mapping[str, Any]], leave_out: str = "") -> Report:
        """Rows with keys, as in a CSV file. leave_out: columns, as a regular expression.

        Columns that are empty in every row are left out as well.
        """
        names = [name for name in (rows[0] if rows else ())
                 if not (leave_out and re.fullmatch(leave_out, name))
                 and any(row[name] not in ("", None) for row in rows)]
        return self.table([name.replace("_", " ") for name in names],
                          [[_number(row[name]) for name in names] for row in rows])

    def picture(self, path: Path, caption: str) -> Report:
        """A PNG or SVG file, embedded; ``caption`` says what it shows."""
        data = base64.b64encode(path.read_bytes()).decode()
        return self._add(f'<figure><img alt="{escape(caption)}" '
                         f'src="data:{_KINDS[path.suffix]};base64,{data}">'
                         f"<figcaption>{escape(caption)}</figcaption></figure>")

    def origin(self, document: Mapping[str, Any], command: str | None = None) -> Report:
        """The section on how a result came about.

        document: as the command's JSON. command: the command line; None for this process's own.
        """
        self.section("How it was run")
        command = command_line() if command is None else command
        if command:
            self._add(f'<pre class="wrap">{escape(command)}</pre>')
        machine, checkpoint = document.get("machine") or {}, document.get("checkpoint") or {}
        versions = document.get("versions") or {}
        facts = {
            "commit": document.get("commit") or "an installed copy, without a commit",
            "machine": ", ".join(filter(None, (machine.get("cpu"), machine.get("system")))),
            "device": (document.get("device_facts") or {}).get("name"),
            "threads": _pairs(machine.get("threads") or {}),
            "versions": _pairs(versions),
            "checkpoint": _pairs({k: v for k, v in checkpoint.items() if v not in ("", None)}),
        }
        rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
                       for name, value in facts.items() if value)
        self._add(f'<table class="facts">{rows}</table>')
        everything = {name: document[name] for name in _FACTS if name in document}
        text = escape(json.dumps(everything, indent=1, default=str))
        return self._add(f"<details><summary>All settings</summary><pre>{text}</pre></details>")

    def html(self) -> str:
        """The page."""
        navigation, parts = [], []
        for number, (heading, body) in enumerate(self._sections):
            anchor = f"s{number}"
            title = f"<h2>{escape(heading)}</h2>\n" if heading else ""
            if heading:
                navigation.append(f'<a href="#{anchor}">{escape(heading)}</a>')
            parts.append(f'<section id="{anchor}">{title}' + "\n".join(body) + "</section>")
        links = f'<nav aria-label="Contents">{"".join(navigation)}</nav>' if (
            len(navigation) > 2) else ""
        lead = f'<p class="lead">{escape(self._lead)}</p>' if self._lead else ""
        return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
                '<meta name="viewport" content="width=device-width, initial-scale=1">'
                '<meta name="color-scheme" content="light dark">'
                f"<title>{escape(self._title)}</title><style>{STYLE}</style></head>\n<body>\n"
                f"<header><h1>{escape(self._title)}</h1>{lead}{links}</header>\n<main>\n"
                + "\n".join(parts) + "\n</main></body></html>\n")

    def write(self, path: Path) -> Path:
        """Write the page; missing folders are made.

        Raises ConfigurationError where the file cannot be written.
        """
        path = Path(path)
        with naming_failures(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.html(), encoding="utf-8")
        return path

    def _add(self, html: str) -> Report:
        if not self._sections:
            self.section("")
        self._sections[-1][1].append(html)
        return self


def shown(value: object) -> str:
    """A cell as text: numbers with four significant digits, nothing for what is not known."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if abs(value) < 1e6 and float(value).is_integer():
        return str(int(value))
    return f"{value:.4g}"


def _are_words(column: Sequence[str]) -> bool:
    """Whether most cells of a column hold no number."""
    filled = [cell for cell in column if cell and cell != "-"]
    return 2 * sum(bool(re.match(r"[-+]?\d", cell)) for cell in filled) < len(filled)


def _number(value: object) -> object:
    """A number that a CSV file holds as text."""
    if not isinstance(value, str):
        return value
    try:
        return int(value) if re.fullmatch(r"-?\d+", value) else float(value)
    except ValueError:
        return value


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
