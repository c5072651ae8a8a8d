"""A link without ROS behind the server of specprune view: a test says what there is to show."""
import concurrent.futures
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np

from specprune_ros.errors import ConfigurationError, SpecpruneError

ROWS = [
    {"name": "controller.enter_translation", "group": "Controller: coarse or fine",
     "description": "Fine mode below this speed, m/s.", "kind": "float", "low": 0.0, "high": 10.0,
     "slider": [0.0, 0.5]},
    {"name": "dynamic.floor", "group": "Dynamic pruning", "description": "Never below.",
     "kind": "int", "low": 0, "high": 16384, "slider": [0, 512]},
    {"name": "static.use_global", "group": "Static pruning", "description": "Keep V_global.",
     "kind": "bool"},
    {"name": "pruning", "group": "Other", "description": "Method.", "kind": "choice",
     "choices": ["specprune", "off", "custom"]},
]
TYPES = {"controller.enter_translation": float, "dynamic.floor": int, "static.use_global": bool,
         "pruning": str, "instruction": str}


def settable(values):
    """As view_state.settable, for ROWS."""
    for name, value in values.items():
        if name not in TYPES or (type(value) is not TYPES[name] and
                                 not (TYPES[name] is float and type(value) is int)):
            raise ConfigurationError(f"{name!r} cannot be set to {value!r}")
    return {name: TYPES[name](value) for name, value in values.items()}


@dataclass
class FakePicture:
    number: int
    jpeg: bytes
    trouble: str = ""


def jpeg(colour):
    """A picture of one colour (BGR)."""
    return cv2.imencode(".jpg", np.full((64, 64, 3), colour, np.uint8))[1].tobytes()


def status(state="running", **changes):
    return {"state": state, "fault": "", "fault_text": "", "latched": False, "dry_run": False,
            "instruction": "pick up the red cube", "episode": 3, "revision": 2,
            "inputs": [{"name": "camera/primary", "age": 0.01}, {"name": "joint_states",
                                                                 "age": None}],
            "last_rejection": "", "queries": 12, "chunks": 12, "faults": 0, "unsynchronised": 0,
            "rejected": 0, "failures": 0, "dense_fallbacks": 0, "holds": 1, **changes}


def point(n, **changes):
    return {"n": n, "t": 1.7e9 + n, "episode": 3, "query": n, "revision": 2, "method": "specprune",
            "mode": "fine" if n % 3 == 0 else "coarse", "source": "policy", "dense_refresh": False,
            "stages": {"vision": 4.0 + n % 2, "decoder": 9.0 + n % 4}, "total_ms": 15.0 + n % 5,
            "age_ms": 20.0, "tokens_dense": 512, "tokens_static": 130 + n % 9,
            "tokens_last": 90 + n % 7, "layer_tokens": [512, 130, 90], "flops": 0.35,
            "cameras": {"primary": {"tokens_in": 256, "kept": 60},
                        "wrist": {"tokens_in": 256, "kept": 70}},
            "speeds": {}, "seam": [None, None], "shadow": None, **changes}


class FakeLink:
    """Shows ``shown``; keeps what was set in ``values`` and ``calls``."""

    def __init__(self):
        self.viewers = 0
        self.calls = []
        self.veto = ""
        self.hang = False
        self.pictures = {("primary", "camera"): FakePicture(1, jpeg((0, 0, 255))),
                         ("primary", "kept"): FakePicture(2, jpeg((0, 90, 0)))}
        self.absent()

    def absent(self):
        self.shown = {"condition": {"kind": "absent", "text": "No vla_node in ROS domain 7."},
                      "status": None, "status_age": None, "sim": None, "sim_age": None,
                      "query_age": None, "parameters": {}, "points": [], "pictures": {}}

    def running(self, points=12):
        self.shown = {
            "condition": {"kind": "running", "text": "The policy is running."},
            "status": status(), "status_age": 0.1, "query_age": 0.2, "sim_age": 0.1,
            "sim": {"suite": "tabletop", "init_state": 4, "instruction": "pick up the red cube",
                    "episode": 5, "step": 40, "max_steps": 160, "done": False, "success": False,
                    "episodes_done": 5, "successes": 4, "held_steps": 0, "observation_age": 0.02},
            "parameters": {"controller.enter_translation": 0.1, "dynamic.floor": 60,
                           "static.use_global": True, "pruning": "specprune",
                           "instruction": "pick up the red cube", "cameras": ["primary"]},
            "points": [point(n + 1) for n in range(points)],
            "pictures": {"primary": {"camera": {"n": 1, "age": 0.1, "trouble": ""},
                                     "kept": {"n": 2, "age": 0.1, "trouble": ""}}},
        }

    def fault(self):
        self.running()
        self.shown["condition"] = {"kind": "fault", "text": "latched: row 3 is nan"}
        self.shown["status"] = status("fault", latched=True, fault="guard", rejected=10,
                                      fault_text="latched: row 3 is nan")

    def snapshot(self, since=0):
        return {**self.shown, "points": [p for p in self.shown["points"] if p["n"] > since]}

    def picture(self, camera, which):
        return self.pictures.get((camera, which))

    @contextmanager
    def viewer(self):
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    def set_parameters(self, values):
        self.calls.append(dict(values))
        if not self.veto:
            self.shown["parameters"] = {**self.shown["parameters"], **values}
        return self._answered((not self.veto, self.veto))

    def trigger(self, service):
        self.calls.append(service)
        if not self.shown["status"]:
            return self._answered(SpecpruneError("vla_node has no service; is it running?"))
        if service == "clear_fault":
            self.running()
        return self._answered((True, "done"))

    def _answered(self, result):
        future = concurrent.futures.Future()
        if isinstance(result, Exception):
            future.set_exception(result)
        elif not self.hang:
            future.set_result(result)
        return future
