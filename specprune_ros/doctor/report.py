"""The findings as a table, as JSON, and as an exit status."""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..analysis.writing import naming_failures
from ..preflight import Finding, Level
from ..provenance import git_commit, versions

STANDARD_OUTPUT = Path("-")
_STYLE = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
_WIDTH = 110  # where there is no terminal


def show(findings: Sequence[Finding], args: argparse.Namespace) -> int:
    """Print the table, write the JSON that was asked for; 1 if a line is FAIL, else 0."""
    counts = {level: sum(f.level is level for f in findings) for level in Level}
    status = 1 if counts[Level.FAIL] else 0
    text = json.dumps(as_json(findings, args), indent=1) + "\n"
    if args.json == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return status
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    console.print(table(findings))
    console.print(", ".join(f"{count} {level.value}" for level, count in counts.items()))
    if args.json is not None:
        with naming_failures(args.json):
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(text, encoding="utf-8")
    return status


def table(findings: Sequence[Finding]) -> Table:
    """One line per finding; the remedy stands below what is wrong."""
    result = Table(header_style="bold", box=None, pad_edge=False)
    result.add_column("check", no_wrap=True)
    result.add_column("", no_wrap=True)
    result.add_column("finding", overflow="fold")
    for finding in findings:
        text = Text(finding.text)
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", style="dim")
        result.add_row(finding.name, Text(finding.level.value, style=_STYLE[finding.level]), text)
    return result


def as_json(findings: Sequence[Finding], args: argparse.Namespace) -> dict[str, object]:
    """The findings, and what they were made with."""
    return {
        "failed": any(finding.level is Level.FAIL for finding in findings),
        "findings": [{"check": f.name, "level": f.level.value, "text": f.text, "remedy": f.remedy}
                     for f in findings],
        "settings": {name: value if isinstance(value, (int, list)) or value is None else str(value)
                     for name, value in vars(args).items() if name not in ("run", "command")},
        "versions": versions(),
        "commit": git_commit(),
    }
