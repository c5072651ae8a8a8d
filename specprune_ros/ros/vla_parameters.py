"""The parameters of vla_node."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from ..errors import ConfigurationError
from ..pruning.config import SpecPruneConfig
from ..types import DTYPES
from ..vla.openvla_oft.model import WEIGHTS
from .conversions import ROTATIONS
from .guard_parameters import GUARD_PARAMETERS, guard_limits
from .method_parameters import CUSTOM, METHOD_PARAMETERS, changed, config_of, started
from .parameters import Change, ParameterSpec, Settings, Value

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
    ParameterSpec("dtype", "float32", "Type of weights and arithmetic; auto is bfloat16 where the "
                  "device has instructions for it, else float32.", _UNCONFIGURED,
                  choices=DTYPES),
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
    # --- speed beyond the method
    ParameterSpec("vision_reuse", 0.0, "Use a camera's features again while every patch of its "
                  "picture has at least this similarity (SSIM) to the picture they came from; 1 "
                  "allows identical pictures only, 0 switches it off.", _UNCONFIGURED, 0.0, 1.0),
    ParameterSpec("weights", "full", "int8 rounds the decoder's matrices to a byte per weight.",
                  _UNCONFIGURED, choices=WEIGHTS),
    ParameterSpec("latency_target_ms", 0.0, "Milliseconds that a pruned query may take: how many "
                  "rows it keeps is measured and chosen when the node is configured; 0 leaves that "
                  "to the budgets.", _UNCONFIGURED, 0.0, 60000.0),
    *METHOD_PARAMETERS,
    # --- task
    ParameterSpec("instruction", "", "Task in natural language; the topic instruction changes it, "
                  "too. Another one starts a new episode."),
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
    ParameterSpec("camera_rotation", (0,), "Degrees by which pictures are turned clockwise to be "
                  "upright: 0, 90, 180 or 270; one value for all cameras, or one each."),
    ParameterSpec("min_contrast", 3, "Smallest difference between the brightest and the darkest "
                  "value of a picture (0..255); one below is blank (covered lens, dead sensor) "
                  "and not used.", _LIVE, 0, 255),
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
    ParameterSpec("gripper.scale", (1.0, -1.0), "Factor per gripper joint, or one for all; LIBERO "
                  "has the second finger negative.", _LIVE, -1e6, 1e6),
    ParameterSpec("gripper.offset", (0.0,), "Added per gripper joint after the factor, or one for "
                  "all.", _LIVE, -1e6, 1e6),
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
    *GUARD_PARAMETERS,
)


class VlaSettings(Settings):
    """The values of vla_node's parameters."""

    specs = VLA_PARAMETERS

    @classmethod
    def started(cls, given: Mapping[str, Value]) -> VlaSettings:
        return cls(started(given))

    def completed(self, values: Mapping[str, Value]) -> Mapping[str, Value]:
        return changed(self, values)

    @cached_property
    def method(self) -> str | SpecPruneConfig:
        """The pruning method as a policy takes it: a name, or the settings of custom."""
        return config_of(self) if self["pruning"] == CUSTOM else self["pruning"]

    def check(self) -> None:
        """Raise ConfigurationError where a value, or values together, make no sense."""
        super().check()
        _check_cameras(self["cameras"])
        self.per_item("camera_rotation", "cameras")
        if not set(self["camera_rotation"]) <= set(ROTATIONS):
            raise ConfigurationError(f"camera_rotation is {list(self['camera_rotation'])}; "
                                     "use 0, 90, 180 or 270")
        self.per_item("gripper.scale", "gripper.joints")
        self.per_item("gripper.offset", "gripper.joints")
        reference = self["orientation_reference_xyzw"]
        if len(reference) != 4 or not any(reference):
            raise ConfigurationError(f"orientation_reference_xyzw is {list(reference)}; it must be "
                                     "a quaternion x, y, z, w")
        guard_limits(self, needs_pose=False)
        config_of(self)
        if self["replan_steps"] > self["chunk_length"]:
            raise ConfigurationError(
                f"replan_steps ({self['replan_steps']}) is more than chunk_length "
                f"({self['chunk_length']}): the arm would run out of actions")

    def per_item(self, name: str, items: str) -> tuple:
        """The values of an array parameter, one per element of another; one value is for all.

        Raises:
            ConfigurationError: their numbers do not fit.
        """
        values, count = self[name], len(self[items])
        if len(values) not in (1, count):
            raise ConfigurationError(f"{name} has {len(values)} values, but {items} has {count}; "
                                     f"give {count}, or one for all")
        return values * count if len(values) == 1 else values


def _check_cameras(names: Sequence[str]) -> None:
    wrists = names[1:]
    if names[:1] != ("primary",) or not all("wrist" in name for name in wrists):
        raise ConfigurationError(f"cameras is {list(names)}; the first must be primary, and the "
                                 "others must have wrist in their names")
    wrong = [name for name in wrists if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)]
    if wrong or len(set(names)) != len(names):
        raise ConfigurationError(f"cameras is {list(names)}; names must differ and consist of "
                                 "letters, digits and underscores")
