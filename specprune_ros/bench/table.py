"""Results on standard output."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(document: Mapping[str, Any]) -> None:
    """The arms, the ratios, what selection costs."""
    model, facts, cuda = document["model"], document["device_facts"], document["device"] == "cuda"
    work = document["workload"]
    table = Table(title=f"{model['name']}, {model['dtype']}, {facts['name']}; {work['cameras']} "
                        f"cameras, {work['tokens']} tokens, {work['scene']} scene, {work['mode']}")
    columns = ["arm", "runtime", "query, ms"]
    columns += ["wall, ms", "TFLOP/s", "of roofline", "MiB"] if cuda else ["decoder, ms"]
    for column in [*columns, "decoder, GFLOP", "rows, last layer"]:
        table.add_column(column, justify="left" if column in ("arm", "runtime") else "right")
    for name, arm in document["arms"].items():
        query = arm["cuda_ms"] if cuda else arm["query_cpu_ms"]
        cells = [f"{name}: {arm['text']}", arm["runtime"], _spread(query)]
        if cuda:
            memory = arm["peak_memory_mib"]
            share = arm["of_roofline"]
            cells += [_spread(arm["query_wall_ms"]), f"{arm['tflops_per_s']:.0f}",
                      "" if share is None else f"{100 * share:.0f} %", f"{memory:.0f}"]
        else:
            cells.append(_spread(arm["cpu_ms"]))
        table.add_row(*cells, f"{arm['flops'] / 1e9:.1f}", f"{arm['tokens_per_layer'][-1]:.0f}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    if not cuda:
        console.print(f"CPU time, {work['threads']} thread(s); ratios are of the decoder, 'query' "
                      "of all")
    for name, value in document["ratios"].items():
        console.print(f"{name}: {'withheld' if value is None else f'{value:.2f}'}")
    if document["withheld"]:
        console.print(document["withheld"])
    for name in ("selection_of_layer", "selection_of_query"):
        if document[name] is not None:
            console.print(f"{name}: {100 * document[name]:.1f} %")


def _spread(statistics: Mapping[str, float]) -> str:
    """Median and the distance of the quartiles."""
    return f"{statistics['median']:.2f} ({statistics['iqr']:.2f})"
