"""HTML report of ``specprune bench``."""
from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specprune_ros.bench.plots import caption, draw
from specprune_ros.report import Report

_CAPTIONS = {
    "bench_waterfall": "Time of a query after each step; hatched: what the step saved",
    "bench_tokens": "Time over tokens, of a query and of one decoder layer, with the roofline",
}


def write_report(path: Path, document: Mapping[str, Any], pictures: Sequence[Path] = ()) -> Path:
    """One file. pictures: those of ``plots.draw``; without any they are drawn here."""
    cuda = document["device"] == "cuda"
    report = Report(f"specprune bench: {document['model']['name']} on "
                    f"{document['device_facts']['name']}", caption(document))
    report.section("Times")
    if document["withheld"]:
        report.warning(document["withheld"])
    report.table(*arm_table(document, cuda))
    report.text("Medians in ms, in brackets the distance of the quartiles. " + (
        "Query: CUDA events." if cuda else
        "CPU time of the process but for the column of wall time."))
    report.section("Ratios")
    ratios = {name: "withheld" if value is None else f"{value:.2f}"
              for name, value in document["ratios"].items()}
    ratios |= {name.replace("_", " "): f"{100 * document[name]:.1f} %"
               for name in ("selection_of_layer", "selection_of_query")
               if document[name] is not None}
    report.table(["ratio", "value"], list(ratios.items()))
    report.text("Slower over faster within this run. flops: decoder, dense over pruned; realised: "
                "b/d over flops." + ("" if cuda else " Plain names are of the decoder, 'query' "
                                     "of the whole query."))
    report.section("Pictures")
    with tempfile.TemporaryDirectory() as scratch:
        for picture in pictures or draw(document, Path(scratch)):
            report.picture(picture, _CAPTIONS[picture.stem])
    return report.origin(document).write(path)


def arm_table(document: Mapping[str, Any], cuda: bool) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row per arm."""
    heads = ["arm", "runtime", "query"]
    heads += (["wall", "TFLOP/s", "of roofline", "peak MiB"] if cuda
              else ["decoder", "query, wall"])
    heads += ["decoder GFLOP", "rows, last layer"]
    rows = []
    for name, arm in document["arms"].items():
        row = [f"{name}: {arm['text']}", arm["runtime"],
               _spread(arm["cuda_ms" if cuda else "query_cpu_ms"])]
        if cuda:
            row += [_spread(arm["query_wall_ms"]), f"{arm['tflops_per_s']:.0f}",
                    f"{100 * arm['of_roofline']:.0f} %", f"{arm['peak_memory_mib']:.0f}"]
        else:
            row += [_spread(arm["cpu_ms"]), _spread(arm["query_wall_ms"])]
        rows.append([*row, f"{arm['flops'] / 1e9:.2f}", f"{arm['tokens_per_layer'][-1]:.0f}"])
    return heads, rows


def _spread(statistics: Mapping[str, float]) -> str:
    return f"{statistics['median']:.2f} ({statistics['iqr']:.2f})"
