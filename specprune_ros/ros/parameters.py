"""Parameters of vla_node: one table, from which they are declared, checked and documented."""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Union

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..errors import ConfigurationError
from ..pruning.registry import known_methods
from .conversions import ROTATIONS

Value = Union[bool, int, float, str, "tuple[int, ...]", "tuple[float, ...]", "tuple[str, ...]"]


class Change(Enum):
    """When a parameter can be changed; the text is what a user is told."""

    LIVE = "at any time; used from the next query on"
    UNCONFIGURED = "while the node is unconfigured"
    START = "read-only; set it at start"


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter. The ROS type follows from the default (tuples are arrays).

    low, high: inclusive range of a number, or of each element of an array.
    choices: the strings that are allowed; empty for any.
    """

    name: str
    default: Value
    description: str
    change: Change = Change.LIVE
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def type(self) -> Parameter.Type:
        """The ROS type, e.g. DOUBLE or STRING_ARRAY."""
        default = list(self.default) if isinstance(self.default, tuple) else self.default
        return Parameter.Type.from_parameter_value(default)

    @property
    def read_only(self) -> bool:
        return self.change is Change.START

    def check(self, value: Value) -> None:
        """Raise ConfigurationError unless the value lies in the range and among the choices."""
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, float) and not math.isfinite(item):
                raise ConfigurationError(f"{self.name} is {item}; it must be finite")
            if self.choices and item not in self.choices:
                raise ConfigurationError(
                    f"{self.name} is {item!r}; choose one of {', '.join(self.choices)}")
            if self.low is not None and item < self.low or (
                    self.high is not None and item > self.high):
                raise ConfigurationError(
                    f"{self.name} is {item}; it must lie between {self.low} and {self.high}")


_LIVE, _UNCONFIGURED, _START = Change.LIVE, Change.UNCONFIGURED, Change.START

VLA_PARAMETERS: tuple[ParameterSpec, ...] = (
    # --- life cycle
    ParameterSpec("autostart", True, "Configure and activate at start, without a manager. While "
                  "that fails, it is tried again whenever a parameter or a file changes.", _START),
    # --- policy
    ParameterSpec("checkpoint", "", "Directory of an OpenVLA-OFT checkpoint, or the name of one "
                  "that is installed with the package; empty for the one it comes with.",
                  _UNCONFIGURED),
    ParameterSpec("device", "cpu", "Torch device: cpu, cuda, cuda:1.", _UNCONFIGURED),
    ParameterSpec("dtype", "float32", "Type of weights and arithmetic.", _UNCONFIGURED,
                  choices=("float32", "bfloat16", "float16")),
    ParameterSpec("num_threads", 0, "CPU threads of torch; 0 leaves torch's own choice.",
                  _UNCONFIGURED, 0, 1024),
    ParameterSpec("unnorm_key", "", "Key of dataset_statistics.json that un-normalises actions; "
                  "empty where the file has only one.", _UNCONFIGURED),
    ParameterSpec("center_crop", True, "Crop to 90 % of the area, as checkpoints trained with "
                  "crop augmentation need.", _UNCONFIGURED),
    ParameterSpec("jpeg_roundtrip", True, "Encode and decode each picture as JPEG, as the training "
                  "data was.", _UNCONFIGURED),
    ParameterSpec("chunk_length", 8, "Actions per chunk that the checkpoint was trained for.",
                  _UNCONFIGURED, 1, 100),
    ParameterSpec("pruning", "specprune", "Pruning method; off computes every token.",
                  choices=known_methods()),
    # --- timing
    ParameterSpec("control_period", 0.05, "Seconds between the actions of a chunk.",
                  _UNCONFIGURED, 0.001, 10.0),
    ParameterSpec("replan_steps", 8, "Control periods between the observations of two queries; at "
                  "most chunk_length.", _LIVE, 1, 100),
    ParameterSpec("input_timeout", 1.0, "Age in seconds on the ROS clock from which an input is "
                  "stale and not used.", _LIVE, 0.01, 3600.0),
    # --- cameras
    ParameterSpec("cameras", ("primary", "wrist"), "primary, then names that contain wrist, as "
                  "many as the checkpoint was trained with; camera NAME is read from "
                  "camera/NAME/image_raw.", _UNCONFIGURED),
    ParameterSpec("image_transport", "raw", "raw reads image_raw, compressed reads "
                  "image_raw/compressed.", _UNCONFIGURED, choices=("raw", "compressed")),
    ParameterSpec("camera_rotation", (0, 0), "Degrees by which each camera's pictures are turned "
                  "clockwise to be upright: 0, 90, 180 or 270."),
    ParameterSpec("sync_slop", 0.02, "Largest difference in seconds between the stamps of one set "
                  "of pictures.", _LIVE, 0.0, 1.0),
    # --- arm
    ParameterSpec("use_proprio", "auto", "Give the state of the arm to the policy; auto does so "
                  "where the checkpoint has a proprio projector.", _UNCONFIGURED,
                  choices=("auto", "on", "off")),
    ParameterSpec("robot_description_file", "", "URDF file; empty for the topic "
                  "robot_description.", _UNCONFIGURED),
    ParameterSpec("base_frame", "panda_link0", "Link whose axes poses, velocities and actions "
                  "refer to."),
    ParameterSpec("tool_frame", "panda_hand_tcp", "Link whose pose and velocity count."),
    ParameterSpec("gripper.joints", ("panda_finger_joint1", "panda_finger_joint2"),
                  "Joints that follow the pose in the proprio vector."),
    ParameterSpec("gripper.scale", (1.0, -1.0), "Factor per gripper joint; LIBERO has the second "
                  "finger negative.", _LIVE, -1e6, 1e6),
    ParameterSpec("gripper.offset", (0.0, 0.0), "Added per gripper joint after the factor.",
                  _LIVE, -1e6, 1e6),
    ParameterSpec("orientation_reference_xyzw", (1.0, 0.0, 0.0, 0.0), "Quaternion that decides the "
                  "sign of the tool's, so that axis-angle does not jump near it.",
                  _LIVE, -1.0, 1.0),
    ParameterSpec("twist_time_constant", 0.05, "Seconds of the low-pass filter on the velocity of "
                  "the tool; 0 for none.", _LIVE, 0.0, 10.0),
    # --- actions
    ParameterSpec("unit_scale.translation", 0.05, "Metres per controller unit of translation, "
                  "copied into the chunks.", _LIVE, 1e-6, 10.0),
    ParameterSpec("unit_scale.rotation", 0.5, "Radians per controller unit of rotation, copied "
                  "into the chunks.", _LIVE, 1e-6, 10.0),
)


class Settings(Mapping):
    """The values of all parameters at one time, and how often they had been changed by then.

    Immutable, so that a query can go on with the settings it started with.
    """

    def __init__(self, values: Mapping[str, Value], revision: int = 0,
                 specs: Sequence[ParameterSpec] = VLA_PARAMETERS) -> None:
        self.revision = revision
        self.specs = tuple(specs)
        self._values = {spec.name: spec.default for spec in specs}
        unknown = sorted(set(values) - set(self._values))
        if unknown:
            raise ConfigurationError(f"unknown parameters: {', '.join(unknown)}")
        self._values.update({name: _frozen(value) for name, value in values.items()})

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def changed(self, values: Mapping[str, Value]) -> Settings:
        """Return the settings with other values and the next revision, checked.

        Raises:
            ConfigurationError: they do not fit together; the message is the reason for a veto.
        """
        settings = Settings({**self._values, **values}, self.revision + 1, self.specs)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise ConfigurationError where a value, or values together, make no sense."""
        for spec in self.specs:
            spec.check(self[spec.name])
        _check_cameras(self["cameras"])
        _same_length(self, "cameras", "camera_rotation")
        if not set(self["camera_rotation"]) <= set(ROTATIONS):
            raise ConfigurationError(f"camera_rotation is {list(self['camera_rotation'])}; "
                                     "use 0, 90, 180 or 270")
        _same_length(self, "gripper.joints", "gripper.scale")
        _same_length(self, "gripper.joints", "gripper.offset")
        reference = self["orientation_reference_xyzw"]
        if len(reference) != 4 or not any(reference):
            raise ConfigurationError(f"orientation_reference_xyzw is {list(reference)}; it must be "
                                     "a quaternion x, y, z, w")
        if self["replan_steps"] > self["chunk_length"]:
            raise ConfigurationError(
                f"replan_steps ({self['replan_steps']}) is more than chunk_length "
                f"({self['chunk_length']}): the arm would run out of actions")


class ParameterServer:
    """Declares the parameters on a node, keeps its settings and decides about changes.

    Changes are made in the executor's thread; ``settings`` may be read from any thread.
    """

    def __init__(self, node: Node, apply: Callable[[Settings], None], changed: Callable[[], None],
                 specs: Sequence[ParameterSpec] = VLA_PARAMETERS) -> None:
        """Declare every parameter. ``apply`` is called with changed settings before they are set,
        and vetoes them by a ConfigurationError; ``changed`` is called after they were set.

        Raises:
            rclpy.exceptions.ParameterException: a start value has the wrong type or lies outside
                its range. Values that do not fit together only show in Settings.check().
        """
        self._apply, self._changed = apply, changed
        self._specs = {spec.name: spec for spec in specs}
        declared = node.declare_parameters(
            "", [(spec.name, _thawed(spec.default), descriptor(spec)) for spec in specs])
        self.settings = Settings({p.name: p.value for p in declared}, specs=specs)
        self.configured = False  # set by the node: which parameters may change
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, parameters: Iterable[Parameter]) -> SetParametersResult:
        # Others, such as use_sim_time and QoS overrides, are not ours to judge.
        values = {p.name: p.value for p in parameters if p.name in self._specs}
        if not values:
            return SetParametersResult(successful=True)
        try:
            for name, value in values.items():
                if value is None:
                    raise ConfigurationError(f"{name} cannot be removed")
                unchanged = _frozen(value) == self.settings[name]
                if self.configured and not unchanged and (
                        self._specs[name].change is Change.UNCONFIGURED):
                    raise ConfigurationError(f"{name} can only be changed while the node is "
                                             "unconfigured: call the cleanup transition first")
            settings = self.settings.changed(values)
            self._apply(settings)
            self.settings = settings
            self._changed()
        except ConfigurationError as veto:
            return SetParametersResult(successful=False, reason=str(veto))
        return SetParametersResult(successful=True)


def descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """Return what ``ros2 param describe`` and rqt show of a parameter."""
    result = ParameterDescriptor(
        name=spec.name, type=spec.type.value, description=spec.description,
        read_only=spec.read_only)
    notes = [f"Changed {spec.change.value}."]
    if spec.choices:
        notes.append(f"One of: {', '.join(spec.choices)}.")
    if spec.low is not None and spec.type is Parameter.Type.INTEGER:
        result.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high))]
    elif spec.low is not None and spec.type is Parameter.Type.DOUBLE:
        result.floating_point_range = [
            FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high))]
    elif spec.low is not None:
        notes.append(f"Each from {spec.low} to {spec.high}.")
    result.additional_constraints = " ".join(notes)
    return result


def _check_cameras(names: Sequence[str]) -> None:
    wrists = names[1:]
    if names[:1] != ("primary",) or not all("wrist" in name for name in wrists):
        raise ConfigurationError(f"cameras is {list(names)}; the first must be primary, and the "
                                 "others must have wrist in their names")
    wrong = [name for name in wrists if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)]
    if wrong or len(set(names)) != len(names):
        raise ConfigurationError(f"cameras is {list(names)}; names must differ and consist of "
                                 "letters, digits and underscores")


def _same_length(settings: Settings, one: str, other: str) -> None:
    if len(settings[one]) != len(settings[other]):
        raise ConfigurationError(f"{one} has {len(settings[one])} values and {other} has "
                                 f"{len(settings[other])}; they need the same number")


def _frozen(value: object) -> Value:
    return value if isinstance(value, (bool, int, float, str)) else tuple(value)


def _thawed(value: Value) -> object:
    return list(value) if isinstance(value, tuple) else value
