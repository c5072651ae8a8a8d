"""Pictures of a benchmark, from its document: what each step gained, and time over tokens."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specprune_ros.analysis.plots import COLOURS, figure, save

_STEPS = (("a", "as the reference runs it"), ("a2", "without what is computed in vain"),
          ("b", "this runtime"), ("d", "pruned"))


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the pictures that the document has data for; returns their paths."""
    drawn = [_waterfall(document, folder / "bench_waterfall.png")]
    if "sweep" in document:
        drawn.append(_latency(document, folder / "bench_tokens.png"))
    return drawn


def caption(document: Mapping[str, Any]) -> str:
    """Model, device, workload, n."""
    model, facts, work = document["model"], document["device_facts"], document["workload"]
    arm = next(iter(document["arms"].values()))
    what = "CUDA events" if document["device"] == "cuda" else (
        f"CPU time of {work['threads']} thread(s)")
    return (f"{model['name']}, {model['dtype']}, {facts['name']}; {work['cameras']} cameras, "
            f"{work['tokens']} tokens, {work['scene']} scene, {work['mode']} mode; {what}, "
            f"n = {arm['query_wall_ms']['n']} per arm")


def _query_ms(document: Mapping[str, Any], arm: str) -> Mapping[str, float]:
    kind = "cuda_ms" if document["device"] == "cuda" else "query_cpu_ms"
    return document["arms"][arm][kind]


def _waterfall(document: Mapping[str, Any], path: Path) -> Path:
    """A bar per step; the part that a step saved is hatched."""
    steps = [(name, text) for name, text in _STEPS if name in document["arms"]]
    drawn, (axis,) = figure(1, 1, 11.0, 1.6 + 0.75 * (len(steps) + 1))
    before = None
    for place, (name, _) in enumerate(steps):
        times = _query_ms(document, name)
        median = times["median"]
        axis.barh(place, median, 0.6, color=COLOURS[0], xerr=times["iqr"] / 2, capsize=3)
        bound = document["arms"][name]["roofline_ms"]
        axis.plot([bound, bound], [place - 0.38, place + 0.38], color="black",
                  label="roofline" if place == 0 else None)
        label = f"{median:.4g} ms"
        if before is not None:
            axis.barh(place, before - median, 0.6, left=median, fill=False, hatch="//",
                      edgecolor=COLOURS[1], linewidth=0.0)
            gain = document["ratios"].get(f"query {steps[place - 1][0]}/{name}")
            label += f", {gain:.2f}x" if gain else ""  # withheld
        right = max(median + times["iqr"] / 2, before or 0)
        axis.annotate(label, (right, place), (6, 0),
                      textcoords="offset points", va="center", fontsize=9)
        before = median
    if "c" in document["arms"]:
        place, median = len(steps), _query_ms(document, "c")["median"]
        axis.barh(place, median, 0.6, color=COLOURS[5])
        axis.annotate(f"{median:.4g} ms", (median, place), (6, 0), textcoords="offset points",
                      va="center", fontsize=9)
        steps.append(("c", "pruned, but run as a2"))
    axis.set_yticks(range(len(steps)), [f"{name}: {text}" for name, text in steps])
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.grid(axis="y", visible=False)
    axis.set(xlabel="query (ms); hatched: what the step saved, quartiles as bars")
    axis.legend(loc="lower right")
    return save(drawn, path, "What each step gained", caption(document))


def _latency(document: Mapping[str, Any], path: Path) -> Path:
    """Queries over kept patches, and a layer over its rows, with their rooflines."""
    drawn, (queries, layers) = figure(1, 2, 13.0, 5.2)
    points = document["sweep"]["queries"]
    kept = [point["kept_visual"] for point in points]
    queries.errorbar(kept, [point["ms"] for point in points],
                     yerr=[point["iqr_ms"] / 2 for point in points], fmt="o-",
                     color=COLOURS[0], capsize=3, label="measured, rows told")
    queries.plot(kept, [point["roofline_ms"] for point in points], "--", color="black",
                 label="roofline")
    others = document["workload"]["tokens"] - max(kept)
    for name, colour in (("b", COLOURS[2]), ("d", COLOURS[1])):
        if name in document["arms"]:
            arm = document["arms"][name]
            tokens = sum(arm["tokens_per_layer"]) / len(arm["tokens_per_layer"]) - others
            queries.plot(tokens, _query_ms(document, name)["median"], "D", color=colour,
                         markersize=8, label=f"{name}, at its mean over the layers")
    queries.set(xlabel="patches kept from layer 2 on", ylabel="query (ms)", ylim=(0, None),
                title="Query")
    rows = [point["rows"] for point in document["sweep"]["layers"]]
    for key, style, text in (("ms", "o-", "measured"), ("roofline_ms", "--", "roofline")):
        layers.plot(rows, [point[key] for point in document["sweep"]["layers"]], style,
                    color=COLOURS[0] if key == "ms" else "black", label=text)
    layers.set(xlabel="rows", ylabel="one decoder layer (ms)", ylim=(0, None), title="Layer")
    for axis in (queries, layers):
        axis.legend()
    return save(drawn, path, "Time over tokens", caption(document))
