"""What ``specprune view`` shows, made of messages: plain values that can be written as JSON."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from specprune_ros.msg import ActionChunk, PruneStats, SimStatus, VlaStatus

from ..errors import ConfigurationError
from .method_parameters import METHOD_PARAMETERS
from .parameters import ParameterSpec

#: Wall seconds without vla_status from which the node counts as silent: it speaks twice a second.
SILENT_S = 2.5

STATES = {VlaStatus.UNCONFIGURED: "unconfigured", VlaStatus.INACTIVE: "inactive",
          VlaStatus.WAITING: "waiting", VlaStatus.RUNNING: "running", VlaStatus.FAULT: "fault"}
FAULTS = {value: name.lower().replace("_", " ") for name, value in (
    (name, getattr(VlaStatus, name)) for name in (
        "CHECKPOINT", "CONFIGURATION", "IMAGE", "JOINT_STATE", "INSTRUCTION", "ROBOT_DESCRIPTION",
        "INFERENCE", "GUARD", "TIMEOUT"))}
SOURCES = {ActionChunk.POLICY: "policy", ActionChunk.DENSE: "dense", ActionChunk.HOLD: "hold"}
MODES = {PruneStats.COARSE: "coarse", PruneStats.FINE: "fine"}

#: Prefix of a parameter's name -> heading of its group, in the order of the page.
GROUPS = {"controller": "Controller: coarse or fine", "static": "Static pruning",
          "dynamic": "Dynamic pruning", "budgets": "Budgets", "interval": "Frame interval",
          "": "Other"}
#: Where a slider ends whose declared range is wider than what anybody tries; the box beside it
#: takes the declared range.
_SLIDER_ENDS = {
    "controller.enter_translation": (0.0, 0.5), "controller.exit_translation": (0.0, 0.5),
    "controller.enter_rotation": (0.0, 3.0), "controller.exit_rotation": (0.0, 3.0),
    "controller.enter_vertical": (-0.2, 0.2), "controller.exit_vertical": (-0.2, 0.2),
    "controller.enter_horizontal": (0.0, 0.5), "controller.min_dwell": (0.0, 2.0),
    "controller.warm_up": (0.0, 2.0), "controller.time_constant": (0.0, 0.5),
    "static.interim_factor": (0, 8), "interval.offset": (0.0, 20.0), "interval.slope": (-20.0, 0.0),
    "interval.added": (-10, 10), "dynamic.floor": (0, 512), "refresh_every": (0, 50),
}
_BUDGET_END = 128


def status_values(message: VlaStatus) -> dict[str, Any]:
    """State, fault, task and counters of the node."""
    return {
        "state": STATES.get(message.state, str(message.state)),
        "fault": FAULTS.get(message.fault_code, ""),
        "fault_text": message.fault_text,
        "latched": message.latched,
        "dry_run": message.dry_run,
        "instruction": message.instruction,
        "episode": message.episode,
        "revision": message.parameter_revision,
        "inputs": [{"name": name, "age": number(age)}
                   for name, age in zip(message.inputs, message.input_ages)],
        "last_rejection": message.last_rejection,
        **{name: getattr(message, name) for name in (
            "queries", "chunks", "faults", "unsynchronised", "rejected", "failures",
            "dense_fallbacks", "holds")},
    }


def sim_values(message: SimStatus) -> dict[str, Any]:
    """The running episode and the totals of the simulator."""
    return {name: getattr(message, name) for name in (
        "suite", "init_state", "instruction", "episode", "step", "max_steps", "done", "success",
        "episodes_done", "successes", "held_steps")} | {
            "observation_age": number(message.observation_age)}


def stats_values(message: PruneStats) -> dict[str, Any]:
    """One query: a point of the charts. Times in ms, tokens are visual ones of all cameras.

    ``layer_tokens``: that entered each decoder layer. ``flops``: share of the dense query's.
    """
    cameras = max(1, len(message.cameras))
    per_layer = [sum(message.visual_tokens_per_layer[k:k + cameras])
                 for k in range(0, len(message.visual_tokens_per_layer), cameras)]
    stages = {name: 1e3 * seconds for name, seconds in zip(message.stage_names,
                                                          message.stage_times)}
    return {
        "episode": message.episode,
        "query": message.query_number,
        "revision": message.parameter_revision,
        "method": message.method,
        "mode": MODES.get(message.mode, str(message.mode)),
        "source": SOURCES.get(message.source, str(message.source)),
        "dense_refresh": message.dense_refresh,
        "stages": stages,
        "total_ms": sum(stages.values()),
        "age_ms": number(1e3 * message.observation_age),
        "tokens_dense": sum(message.tokens_in),
        "tokens_static": sum(message.kept_static),
        "tokens_last": per_layer[-1] if per_layer else sum(message.kept_static),
        "layer_tokens": per_layer,
        "cameras": {name: {"tokens_in": message.tokens_in[k], "kept": message.kept_static[k]}
                    for k, name in enumerate(message.cameras)},
        "flops": number(message.flops / message.dense_flops) if message.dense_flops else None,
        "speeds": {name: number(getattr(message, name)) for name in (
            "translational_speed", "rotational_speed", "vertical_velocity")},
        "seam": [number(message.seam_translation), number(message.seam_rotation)],
        "shadow": number(message.shadow_distance),
    }


def number(value: float) -> float | None:
    """A finite number, or None: JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def condition(status: Mapping[str, Any] | None, age: float | None, publishers: int,
              absent: str) -> dict[str, str]:
    """What there is to say first: ``kind`` and a sentence.

    kind: absent (no node was ever heard), silent (it was, and is not any more), or the state.
    age: of the newest status, wall s. absent: the sentence where no node was heard.
    """
    if status is None:
        if publishers:
            return {"kind": "silent", "text": "vla_node is there, and has not said anything yet."}
        return {"kind": "absent", "text": absent}
    if age is not None and age > SILENT_S:
        why = ("it is gone" if not publishers else "it may hang or load a checkpoint")
        return {"kind": "silent", "text": f"vla_node has been silent for {age:.0f} s: {why}. What "
                "is shown is what it said last."}
    text = {
        "unconfigured": "The node has no policy loaded: call its configure transition.",
        "inactive": "The node is configured and does not act: call its activate transition.",
        "waiting": "The node waits for an input.",
        "running": "The policy is running.",
        "fault": "Something is wrong.",
    }.get(status["state"], "")
    detail = status["fault_text"]
    return {"kind": status["state"], "text": detail or text}


def parameter_rows(specs: Sequence[ParameterSpec] = METHOD_PARAMETERS) -> list[dict[str, Any]]:
    """What the page can set: the parameters of the method, as their table declares them.

    The guard's limits are not among them: a page in a browser is no place to loosen those.
    """
    rows = []
    for spec in specs:
        row: dict[str, Any] = {"name": spec.name, "description": spec.description,
                               "group": GROUPS.get(spec.name.split(".")[0], GROUPS[""])}
        if spec.choices:
            row |= {"kind": "choice", "choices": list(spec.choices)}
        elif isinstance(spec.default, bool):
            row |= {"kind": "bool"}
        else:
            whole = isinstance(spec.default, int)
            low, high = _SLIDER_ENDS.get(spec.name, (spec.low, spec.high))
            if spec.name.startswith("budgets."):
                low, high = 0, _BUDGET_END
            if high - low > 1000:
                low = high = None  # too wide for a slider
            row |= {"kind": "int" if whole else "float", "low": spec.low, "high": spec.high,
                    "slider": None if low is None else [low, high]}
        rows.append(row)
    order = list(GROUPS.values())
    return sorted(rows, key=lambda row: order.index(row["group"]))


def settable(values: Mapping[str, Any]) -> dict[str, object]:
    """Values that the page sends, in the types of their parameters.

    Raises:
        ConfigurationError: a parameter that the page may not set, or a value of another type.
    """
    specs = {spec.name: spec for spec in METHOD_PARAMETERS}
    found: dict[str, object] = {}
    for name, value in values.items():
        kind = str if name == "instruction" else (
            type(specs[name].default) if name in specs else None)
        if kind is None:
            raise ConfigurationError(f"{name!r} is no parameter that can be set here")
        if type(value) is int and abs(value) >= 2**63:
            raise ConfigurationError(f"{name} is too large a number")
        if kind is float and type(value) is int:
            value = float(value)  # JSON has one kind of number
        if type(value) is not kind:
            raise ConfigurationError(f"{name} takes a {kind.__name__}, not {value!r}")
        found[name] = value
    return found
