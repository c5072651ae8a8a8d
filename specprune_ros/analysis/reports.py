"""HTML reports of ``specprune compare`` and ``specprune analyze``."""
from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specprune_ros.analysis.compare_plots import draw
from specprune_ros.analysis.output import counted
from specprune_ros.report import Report

_CAPTIONS = {
    "distance": "Mean distance of the actions from dense, over decoder FLOPs",
    "cost": "CPU time of the median query, and decoder FLOPs over dense",
    "kept_tokens": "Visual tokens that enter each decoder layer",
}


def write_compare_report(path: Path, document: Mapping[str, Any], heads: Sequence[str],
                         rows: Sequence[Sequence[str]], legend: str, text: str) -> Path:
    """heads, rows: the table of the terminal. text: the line on checkpoint and n."""
    report = Report("specprune compare: methods against dense", text)
    report.section("Same observations, every method")
    if document["checkpoint"]["note"]:
        report.warning(f"The checkpoint is {document['checkpoint']['note']}.")
    report.table(heads, rows).text(legend)
    for name, result in document["methods"].items():
        if "unavailable" in result:
            report.warning(f"{name} is not available: {result['unavailable']}")
    with tempfile.TemporaryDirectory() as scratch:
        pictures = draw(document, Path(scratch), text)
        if pictures:
            report.section("Pictures")
        for picture in pictures:
            report.picture(picture, _CAPTIONS[picture.stem])
    report.section("Streams")
    report.table(["source", "steps", "cameras", "instruction", "success"], [
        [stream["source"], stream["steps"], ", ".join(stream["cameras"]), stream["instruction"],
         {True: "yes", False: "no"}.get(stream["success"], "")]
        for stream in document["streams"]])
    return report.origin(document).write(path)


def write_analysis_report(path: Path, results: Path, title: str) -> Path:
    """The report of an experiment, from the files it wrote.

    results: their common path without a suffix (.json, .csv, .png). title: what was examined.
    """
    document = json.loads(results.with_suffix(".json").read_text())
    with results.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    checkpoint = document.get("checkpoint") or {}
    n = document.get("n") or {}
    lead = ", ".join(filter(None, [checkpoint.get("name"), *(
        counted(n[name], what) for name, what in (("recordings", "recording"),
                                                  ("queries", "query")) if n.get(name))]))
    report = Report(f"specprune {document['command']}: {title}", lead)
    report.section("Picture")
    if checkpoint.get("note"):
        report.warning(f"The checkpoint is {checkpoint['note']}.")
    report.picture(results.with_suffix(".png"), title[:1].upper() + title[1:])
    if document.get("note"):
        report.text(str(document["note"]))
    report.section("Figures")
    report.records(rows).text("As in the CSV file; docs/analysis.md explains every column.")
    return report.origin(document).write(path)
