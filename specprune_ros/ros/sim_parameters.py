"""Parameters of sim_bridge_node: one table, from which they are declared and checked."""
from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node

from ..errors import ConfigurationError
from .parameters import Change, ParameterSpec, descriptor

_START, _NEXT = Change.START, Change.NEXT_EPISODE

SIM_BRIDGE_PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec("suite", "tabletop", "Suite of simulated worlds.", _START),
    ParameterSpec("task", -1, "Task of the suite; -1 lets the initial state decide.",
                  _NEXT, -1, 1000),
    ParameterSpec("seed", 0, "Initial state of the next episode; each episode adds one.",
                  _NEXT, 0, 2**31 - 1),
    ParameterSpec("episodes", 0, "Episodes to run before the node ends; 0 for no end.",
                  _START, 0, 1_000_000),
    ParameterSpec("on_request", False, "Begin an episode only when ~/play_episode is called.",
                  _START),
    ParameterSpec("max_steps", 0, "Control periods per episode; 0 for the suite's number.",
                  _START, 0, 1_000_000),
    ParameterSpec("replan_steps", 8, "lockstep: rows of a chunk to play before the next is waited "
                  "for; the value that vla_node has.", _START, 1, 100),
    ParameterSpec("pacing", "lockstep", "lockstep: the world waits for each chunk, so that results "
                  "do not depend on the machine. realtime: the world runs on and holds where "
                  "there is no chunk.", _START, choices=("lockstep", "realtime")),
    ParameterSpec("real_time_factor", 1.0, "realtime: simulated seconds per second of wall time.",
                  _START, 0.01, 100.0),
    ParameterSpec("chunk_timeout", 10.0, "Wall seconds to wait for a chunk before the observation "
                  "is published again.", _START, 0.05, 3600.0),
    ParameterSpec("render_size", 256, "Width and height of the camera images in pixels.",
                  _START, 16, 4096),
    ParameterSpec("image_transport", "raw", "raw: camera/NAME/image_raw. compressed: JPEG on "
                  "camera/NAME/image_raw/compressed.", _START, choices=("raw", "compressed")),
    ParameterSpec("cameras", ("primary", "wrist"), "Cameras of the simulator to publish.", _START),
    ParameterSpec("frame_ids", ("camera_primary_optical_frame", "camera_wrist_optical_frame"),
                  "Optical frame of each camera, in the order of cameras.", _START),
    ParameterSpec("view", False, "Show the scene in a window (needs a display).", _START),
)


@dataclass(frozen=True)
class BridgeParameters:
    """Values of the parameters; SIM_BRIDGE_PARAMETERS describes each. task None: none chosen."""

    suite: str
    task: int | None
    seed: int
    episodes: int
    on_request: bool
    max_steps: int
    replan_steps: int
    pacing: str
    real_time_factor: float
    chunk_timeout: float
    render_size: int
    image_transport: str
    cameras: tuple[str, ...]
    frame_ids: tuple[str, ...]
    view: bool


def declare_parameters(node: Node) -> BridgeParameters:
    """Declare every parameter on the node and return the values.

    Raises:
        ConfigurationError: a value is not among its choices, or values do not fit together.
        rclpy.exceptions.ParameterException: a value has the wrong type or lies outside its range.
    """
    values = {}
    for spec in SIM_BRIDGE_PARAMETERS:
        array = isinstance(spec.default, tuple)
        default = list(spec.default) if array else spec.default
        value = node.declare_parameter(spec.name, default, descriptor(spec)).value
        values[spec.name] = tuple(value) if array else value
        spec.check(values[spec.name])
    if len(values["cameras"]) != len(values["frame_ids"]):
        raise ConfigurationError(f"frame_ids has {len(values['frame_ids'])} entries and cameras "
                                 f"{len(values['cameras'])}; give one frame per camera")
    if values["task"] < 0:
        values["task"] = None
    return BridgeParameters(**values)
