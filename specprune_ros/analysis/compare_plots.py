"""Pictures of a comparison, from its JSON document."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specprune_ros.analysis.plots import COLOURS, MARKERS, figure, save


def draw(document: Mapping[str, Any], folder: Path, text: str) -> list[Path]:
    """Write the pictures; returns their paths. text: the line on checkpoint and n."""
    methods = {name: m for name, m in document["methods"].items() if "unavailable" not in m}
    if not methods:
        return []
    return [_distance(methods, folder / "distance.png", text),
            _cost(methods, folder / "cost.png", text),
            _kept(methods, folder / "kept_tokens.png", text)]


def style(index: int) -> dict[str, Any]:
    """Colour and marker of the n-th method; 36 pairs before one comes again."""
    turn = index // len(COLOURS)
    return {"color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[(index + turn) % len(MARKERS)], "markersize": 5}


def _distance(methods: Mapping[str, Any], path: Path, text: str) -> Path:
    """How far the actions are from dense, over what the method costs: left below is best."""
    drawn, (axis,) = figure(1, 1, 9.0, 5.0)
    for index, (name, m) in enumerate(methods.items()):
        axis.plot(100 * m["flops_ratio"], m["action_l1_chunk"], linestyle="none", label=name,
                  **{**style(index), "markersize": 7})
    axis.set(xlabel="decoder FLOPs (% of dense)", ylim=(0, None),
             ylabel="mean distance of the actions from dense\n(normalised units)")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(drawn, path, "Distance from dense against cost", text)


def _cost(methods: Mapping[str, Any], path: Path, text: str) -> Path:
    names = list(methods)
    drawn, axes = figure(1, 2, 10.0, 1.4 + 0.33 * len(names))
    for axis, values, colour, label in (
            (axes[0], [m["cpu_ms_median"] for m in methods.values()], COLOURS[0],
             "CPU time of the median query (ms)"),
            (axes[1], [100 * m["flops_ratio"] for m in methods.values()], COLOURS[2],
             "decoder FLOPs (% of dense)")):
        bars = axis.barh(names, values, color=colour)
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
        axis.margins(x=0.15)
        axis.set_xlabel(label)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
    axes[1].tick_params(labelleft=False)
    return save(drawn, path, "Cost of a query", text)


def _kept(methods: Mapping[str, Any], path: Path, text: str) -> Path:
    drawn, (axis,) = figure(1, 1, 9.0, 5.0)
    for index, (name, m) in enumerate(methods.items()):
        axis.plot(m["kept_visual_per_layer"], label=name, **style(index))
    axis.set(xlabel="decoder layer", ylabel="visual tokens, mean over queries", ylim=(0, None))
    axis.locator_params(axis="x", integer=True)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(drawn, path, "Visual tokens that enter each layer", text)
