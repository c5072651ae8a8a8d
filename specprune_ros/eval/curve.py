"""Success against FLOPs: every method at the same budgets, and the pareto front."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from specprune_ros.eval.episode import Arm
from specprune_ros.eval.evaluate import Evaluation, Report
from specprune_ros.eval.match import TOLERANCE, Match, match_knob
from specprune_ros.eval.methods import COPIES, DEFAULT, DENSE, knob_of
from specprune_ros.eval.record import Record
from specprune_ros.eval.settings import TUNING_SEEDS
from specprune_ros.eval.statistics import pareto_front
from specprune_ros.eval.summary import compare, flops_ratio, paired, summarize

CLOSE = 0.02  # of the dense success rate


def calibrate(
    evaluation: Evaluation, methods: Sequence[str], targets: Sequence[float], episodes: int,
    report: Report,
) -> dict[str, dict[float, Match]]:
    """The knob of every method that has one, at every target, on initial states for tuning.

    A method that is not available is left out.
    """
    found: dict[str, dict[float, Match]] = {}
    for method in methods:
        knob = knob_of(method)
        if knob is None:
            continue
        known: dict[float, float] = {}

        def ratio_at(value: float, method: str = method) -> float:
            arm = Arm(method, value)
            records = evaluation.run([arm], TUNING_SEEDS.start, episodes, report)[arm]
            if "unavailable" in records[0]:
                raise _Unavailable
            return flops_ratio(records)

        try:
            found[method] = {
                target: match_knob(target, knob.low, knob.high, ratio_at, known)
                for target in targets
            }
        except _Unavailable:
            continue
    return found


class _Unavailable(Exception):
    pass


def budget_arms(
    matches: Mapping[str, Mapping[float, Match]], methods: Sequence[str]
) -> dict[tuple[str, float], Arm]:
    """Arm of every (method, target). A method that copies counts has its reference's knob."""
    arms = {}
    for method in methods:
        source = matches.get(DEFAULT if method in COPIES else method, {})
        for target, match in source.items():
            arms[method, target] = Arm(method, match.knob)
    return arms


def curve(
    matches: Mapping[str, Mapping[float, Match]],
    arms: Mapping[tuple[str, float], Arm],
    found: Mapping[Arm, Sequence[Record]],
    own: Mapping[str, Sequence[Record]],
    episodes: int,
) -> dict[str, Any]:
    """The points of the curve for JSON.

    own: records of every method at its own settings, with those of dense. episodes: of the
    calibration.
    """
    dense, points = own[DENSE], []
    for (method, target), arm in arms.items():
        records, copies = found[arm], method in COPIES
        match = matches[DEFAULT if copies else method][target]
        reference = found.get(arms.get((DEFAULT, target)), ())
        summary = summarize(records, reference if copies else None)
        point = {"method": method, "target": target, **summary}
        if "unavailable" not in summary:
            point |= {
                "knob": f"counts of {DEFAULT}" if copies else knob_of(method).name,
                "knob_value": match.knob,
                # Copies end their episodes elsewhere, so their mean over queries is their own.
                "calibrated_ratio": None if copies else match.ratio,
                "reached": match.reached,
                "within_tolerance": abs(summary["decoder_flops_ratio"] - target) <= TOLERANCE,
                "paired": asdict(paired(records, dense)),
                "paired_default": compare({method: records}, DEFAULT, reference).get(method),
            }
        points.append(point)
    for name, records in own.items():
        summary = summarize(records)
        if "unavailable" not in summary:
            points.append({"method": name, "target": None, **summary})
    playable = [p for p in points if "unavailable" not in p]
    front = pareto_front([(p["decoder_flops_ratio"], p["rate"]) for p in playable])
    return {
        "targets": sorted({target for _, target in arms}, reverse=True),
        "calibration": {
            "first_init_state": TUNING_SEEDS.start, "episodes": episodes, "tolerance": TOLERANCE,
        },
        "points": points,
        "pareto": [
            {k: playable[i][k] for k in ("method", "target", "decoder_flops_ratio", "rate")}
            for i in front
        ],
        "smallest_close_budget": _smallest_close(points),
    }


def _smallest_close(points: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The smallest budget at which DEFAULT is within CLOSE of dense, and ``random`` there."""
    close = [
        p for p in points
        if p["method"] == DEFAULT and p["target"] is not None and p.get("reached")
        and p["paired"]["difference"] >= -CLOSE - 1e-9
    ]
    if not close:
        return None
    best = min(close, key=lambda p: p["target"])
    random = [p for p in points if p["method"] == "random" and p["target"] == best["target"]]
    return {
        "target": best["target"],
        "difference_from_dense": best["paired"]["difference"],
        "random_against_default": random[0].get("paired_default") if random else None,
        "random_against_dense": random[0].get("paired") if random else None,
    }
