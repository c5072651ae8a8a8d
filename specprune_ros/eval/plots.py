"""Pictures of an evaluation, from its JSON document."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specprune_ros.analysis.plots import COLOURS, MARKERS, figure, save

_MOST_PANELS = 4  # of kept tokens, in a row


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every picture that the document has data for; returns their paths."""
    methods = _available(document["methods"])
    if not methods:
        return []
    checkpoint = document["checkpoint"]
    note = "" if checkpoint["trained"] else " (untrained: random weights)"
    text = (f"{document['suite']}, {checkpoint['name']}{note}, n = {document['n']} per method, "
            f"initial states {document['init_states']['first']} to "
            f"{document['init_states']['last']}")
    drawn = [
        _success(document, methods, folder / "success.png", text),
        _kept(methods, folder / "kept_tokens.png", text),
        _latency(methods, folder / "latency.png", text),
    ]
    if document.get("curve"):
        drawn.append(_curve(document, folder / "curve.png", text))
    return drawn


def _available(methods: Mapping[str, Any]) -> dict[str, Any]:
    return {name: m for name, m in methods.items() if "unavailable" not in m}


def _success(document, methods, path: Path, text: str) -> Path:
    """A row per method, a colour per perturbation; intervals are Wilson's."""
    conditions = {"no perturbation": methods}
    conditions |= {c["label"]: _available(c["methods"]) for c in document["perturbed"]}
    names, step = list(methods), 0.8 / len(conditions)
    drawn, (axis,) = figure(1, 1, 8.0, 1.4 + 0.35 * len(names) * max(1.0, len(conditions) / 2))
    for index, (label, results) in enumerate(conditions.items()):
        rows = [names.index(name) + (index + 0.5) * step - 0.4 for name in results]
        rates = [100 * m["rate"] for m in results.values()]
        errors = [[100 * abs(m["rate"] - m["ci95"][side]) for m in results.values()]
                  for side in (0, 1)]
        axis.errorbar(rates, rows, xerr=errors, fmt=MARKERS[index % len(MARKERS)], capsize=3,
                      color=COLOURS[index % len(COLOURS)], label=label)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(-3, 103)
    axis.set_xlabel("success (%), Wilson 95 % interval")
    if len(conditions) > 1:
        drawn.legend(loc="outside lower center", ncols=2)
    return save(drawn, path, "Success in closed loop", text)


def _kept(methods, path: Path, text: str) -> Path:
    cameras = list(next(iter(methods.values()))["kept_visual_tokens_per_layer"])[:_MOST_PANELS]
    drawn, axes = figure(1, len(cameras), 4.6 * len(cameras), 4.0)
    for axis, camera in zip(axes, cameras):
        for index, (name, m) in enumerate(methods.items()):
            axis.plot(m["kept_visual_tokens_per_layer"][camera], label=name, **_style(index))
        axis.set_title(camera)
        axis.set_xlabel("decoder layer")
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("visual tokens, mean over queries")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(drawn, path, "Kept visual tokens", text)


def _latency(methods, path: Path, text: str) -> Path:
    drawn, axes = figure(1, 2, 9.0, 1.4 + 0.35 * len(methods))
    names = list(methods)
    middle = [m["latency_ms"]["p50"] for m in methods.values()]
    rest = [m["latency_ms"]["p95"] - m["latency_ms"]["p50"] for m in methods.values()]
    axes[0].barh(names, middle, color=COLOURS[0], xerr=[[0] * len(rest), rest],
                 error_kw={"capsize": 3})
    axes[0].set_xlabel("query latency (ms): median, and up to the 95th percentile")
    bars = axes[1].barh(names, [100 * m["decoder_flops_ratio"] for m in methods.values()],
                        color=COLOURS[2])
    axes[1].bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axes[1].margins(x=0.15)
    axes[1].set_xlabel("decoder FLOPs, all queries (% of dense)")
    axes[1].tick_params(labelleft=False)
    for axis in axes:
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
    return save(drawn, path, "Cost of a query", text)


def _curve(document, path: Path, text: str) -> Path:
    drawn, (axis,) = figure(1, 1, 9.0, 5.0)
    curve = document["curve"]
    points = [p for p in curve["points"] if "unavailable" not in p]
    for index, name in enumerate(document["methods"]):
        mine = [p for p in points if p["method"] == name]
        for matched in (True, False):
            chosen = sorted((p for p in mine if (p["target"] is not None) == matched),
                            key=lambda p: p["decoder_flops_ratio"])
            if not chosen:
                continue
            look = _style(index)
            # Hollow, and off the line: the method at its own settings.
            look |= {} if matched else {"markerfacecolor": "none", "markersize": 9}
            labelled = matched or not any(p["target"] is not None for p in mine)
            axis.errorbar(
                [100 * p["decoder_flops_ratio"] for p in chosen],
                [100 * p["rate"] for p in chosen],
                yerr=[[100 * abs(p["rate"] - p["ci95"][side]) for p in chosen] for side in (0, 1)],
                linestyle="-" if matched else "none", elinewidth=0.6, capsize=2,
                label=name if labelled else None, **look,
            )
    front = [(100 * p["decoder_flops_ratio"], 100 * p["rate"]) for p in curve["pareto"]]
    axis.plot(*zip(*front), color="black", linestyle="--", linewidth=1, label="pareto front",
              drawstyle="steps-post", zorder=0)
    axis.set_ylim(-3, 103)
    axis.set_xlabel("decoder FLOPs over all queries (% of dense); hollow: own settings")
    axis.set_ylabel("success (%), Wilson 95 % interval")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(drawn, path, "Success against FLOPs", text)


def _style(index: int) -> dict[str, Any]:
    """Colour and marker of the n-th method; 36 pairs before one comes again."""
    turn = index // len(COLOURS)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[(index + turn) % len(MARKERS)],
        "markersize": 5,
    }
