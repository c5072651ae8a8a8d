"""Pictures of the experiments: one style, no display."""
from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specprune_ros.analysis.writing import naming_failures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1b6ca8", "#d1495b", "#3c8d5a", "#e0a030", "#7b5ea7", "#4a4a4a")
MARKERS = ("o", "s", "^", "D", "v", "x")
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure of width x height inches and its axes, row by row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        drawn, axes = pyplot.subplots(
            rows, columns, figsize=(width, height), layout="constrained", squeeze=False
        )
    return drawn, axes.flatten()


def style(index: int) -> dict:
    """Colour and marker of the n-th line."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 5,
    }


def save(drawn: Figure, path: Path, title: str, caption: str) -> Path:
    """Give the figure its title and the line about checkpoint and n, write a PNG and close it.

    Raises ConfigurationError where the file cannot be written.
    """
    from matplotlib import pyplot

    # Wrapped to the figure: about 15 characters of this size fit an inch.
    text = textwrap.fill(caption, int(15 * drawn.get_figwidth()))
    drawn.suptitle(f"{title}\n{text}", fontsize=11)
    with naming_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, dpi=110)
    pyplot.close(drawn)
    return path
