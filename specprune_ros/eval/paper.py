"""The paper's table of LIBERO results, with results of this package beside it.

Figures of the paper are those of Table 1 in SpecPrune-VLA, arXiv 2509.05614v1: OpenVLA-OFT 7B, two
cameras, on an NVIDIA A800. What the table does not say is left empty.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.methods import DENSE

SOURCE = "arXiv 2509.05614v1, Table 1: OpenVLA-OFT 7B on an NVIDIA A800"
COLUMNS = {"libero_spatial": "Spatial", "libero_object": "Object", "libero_goal": "Goal",
           "libero_10": "Long"}
HEADS = ("method", "", *COLUMNS.values(), "mean", "speed", "FLOPs")
LEGEND = (
    f"Success % / ms per query (speed-up). off: OpenVLA-OFT itself. paper: {SOURCE}. ours: median "
    "latency of a complete query on the machine of the run; FLOPs of the decoder over dense; means "
    "over the suites, of success only where all four are there; n where it is not 500. Untrained "
    "checkpoints are left out."
)
_PROTOCOL = 500  # episodes of a suite in the paper's protocol


@dataclass(frozen=True)
class Cell:
    """Results of a method on a suite. success in %, latency in ms, speed-up over dense."""

    success: float
    latency: float
    speedup: float | None = None
    episodes: int = _PROTOCOL

    def __str__(self) -> str:
        faster = "" if self.speedup is None else f" ({self.speedup:.2f}x)"
        n = "" if self.episodes == _PROTOCOL else f", n={self.episodes}"
        return f"{self.success:.1f}/{self.latency:.3g}{faster}{n}"


@dataclass(frozen=True)
class Row:
    """A method on the suites. flops: % of dense."""

    cells: Mapping[str, Cell] = field(default_factory=dict)
    speedup: float | None = None
    flops: float | None = None

    def texts(self) -> list[str]:
        """The columns of HEADS after the first two."""
        found = [self.cells.get(suite) for suite in COLUMNS]
        average = None if None in found else sum(c.success for c in found) / len(found)
        return [
            *("" if cell is None else str(cell) for cell in found),
            "" if average is None else f"{average:.1f}",
            "" if self.speedup is None else f"{self.speedup:.2f}x",
            "" if self.flops is None else f"{self.flops:.0f} %",
        ]


def _published(
    successes: Sequence[float], latencies: Sequence[float], speedup: float, flops: float,
    speedups: Sequence[float | None] = (None,) * 4,
) -> Row:
    return Row(dict(zip(COLUMNS, map(Cell, successes, latencies, speedups))), speedup, flops)


PUBLISHED: dict[str, Row] = {
    DENSE: _published((97.6, 96.5, 97.9, 94.5), (109, 109, 109, 109), 1.0, 100),
    "sparsevlm": _published((96.8, 94.2, 97.6, 93.6), (85.3, 85.3, 85.3, 85.3), 1.28, 77),
    "vla_cache": _published((99.0, 97.7, 97.4, 93.6), (101, 102, 102, 102), 1.07, 83),
    "efficientvla": _published((96.5, 91.1, 96.0, 72.1), (68.8, 71.4, 73.7, 68.6), 1.55, 35),
    "specprune": _published((98.2, 96.3, 97.7, 94.0), (72.4, 76.2, 73.6, 78.1), 1.46, 43,
                            (1.51, 1.43, 1.48, 1.40)),
}


def own_rows(documents: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """Rows of the results of ``specprune eval``, one document per suite.

    Documents of untrained checkpoints count for nothing. Raises ConfigurationError for what is no
    result on one of COLUMNS, and for two results of one suite.
    """
    suites: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        try:
            suite, trained = document["suite"], document["checkpoint"]["trained"]
            document["methods"]
        except (KeyError, TypeError):
            raise ConfigurationError("this is no result of specprune eval") from None
        if suite not in COLUMNS:
            raise ConfigurationError(
                f"the paper's table has no column for suite '{suite}'; it has "
                f"{', '.join(COLUMNS)}"
            )
        if suite in suites:
            raise ConfigurationError(f"two results of suite '{suite}': name one of them")
        suites[suite] = document if trained else {"methods": {}}
    names = dict.fromkeys(name for d in suites.values() for name in d["methods"])
    return {name: row for name in names if (row := _own_row(name, suites)).cells}


def _own_row(name: str, suites: Mapping[str, Mapping[str, Any]]) -> Row:
    cells, flops = {}, []
    for suite in COLUMNS:
        methods = suites.get(suite, {"methods": {}})["methods"]
        m, dense = methods.get(name), methods.get(DENSE)
        if m is None or "unavailable" in m:
            continue
        latency = m["latency_ms"]["p50"]
        speedup = None if dense is None else dense["latency_ms"]["p50"] / latency
        cells[suite] = Cell(100 * m["rate"], latency, speedup, m["n"])
        flops.append(100 * m["decoder_flops_ratio"])
    speedups = [cell.speedup for cell in cells.values()]
    known = speedups and None not in speedups
    return Row(cells, sum(speedups) / len(speedups) if known else None,
               sum(flops) / len(flops) if flops else None)


def paper_rows(documents: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of HEADS: every method of the paper and of the results, the paper's figures first."""
    ours, empty = own_rows(documents), Row()
    found = []
    for name in dict.fromkeys([*PUBLISHED, *ours]):
        found.append([name, "paper", *PUBLISHED.get(name, empty).texts()])
        found.append(["", "ours", *ours.get(name, empty).texts()])
    return found


def paper_table(documents: Sequence[Mapping[str, Any]]) -> Table:
    """For the terminal."""
    shown = Table(title="LIBERO, layout of the paper", box=box.SIMPLE_HEAD, padding=0)
    for number, head in enumerate(HEADS):
        suite = number in range(2, 2 + len(COLUMNS))
        shown.add_column(head, no_wrap=not suite, min_width=9 if suite else None)
    for row in paper_rows(documents):
        shown.add_row(*row)
    return shown
