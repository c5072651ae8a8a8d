"""From parameters to a loaded policy that fits them, and the files that decide about it."""
from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import CheckpointError, ConfigurationError
from ..policy import load_policy
from ..preflight import Level, check_policy, raise_failures
from ..share import checkpoint_dir
from .arm_state import ArmTracker
from .query import Policy
from .vla_parameters import VlaSettings

#: Dimensions of an action that ActionChunk.EE_DELTA_POSE describes.
DIMENSION_NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")


class RobotDescriptionError(ConfigurationError):
    """The file robot_description_file cannot be used."""


def checkpoint_path(settings: VlaSettings) -> Path:
    """Directory of the checkpoint: a path, or the name of one in the package's models folder."""
    return checkpoint_dir(settings["checkpoint"])


def load(settings: VlaSettings, warn: Callable[[str], None]) -> Policy:
    """Load, check and warm up the policy.

    ``warn`` is told what the preflight found that does not keep the policy from running.

    Raises:
        CheckpointError: files are missing, broken or do not fit one another, or the preflight has
            found what makes every action wrong.
        ConfigurationError: parameters are out of range or do not fit the checkpoint.
    """
    if settings["num_threads"]:
        torch.set_num_threads(settings["num_threads"])
    policy = load_policy(
        checkpoint_path(settings),
        device=settings["device"],
        dtype=settings["dtype"],
        unnorm_key=settings["unnorm_key"] or None,
        center_crop=settings["center_crop"],
        jpeg_roundtrip=settings["jpeg_roundtrip"],
        pruning=settings.method,
        chunk_length=settings["chunk_length"],
        control_period=settings["control_period"],
        vision_reuse=settings["vision_reuse"],
        weights=settings["weights"],
        latency_target_ms=settings["latency_target_ms"],
    )
    policy.set_pruning(settings.method, settings["pruning_seed"])
    findings = check_policy(policy, settings["cameras"])
    for finding in findings:
        if finding.level is Level.WARN:
            warn(f"preflight: {finding}")
    try:
        raise_failures(findings)
    except ConfigurationError as error:
        raise CheckpointError(f"preflight: {error}") from error
    policy.warm_up(settings["cameras"])
    return policy


def free_memory() -> None:
    """Give back what a policy that nobody holds any more had taken, the GPU's memory included."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def uses_proprio(settings: VlaSettings, policy: Policy) -> bool:
    """Whether the policy is given proprio.

    Raises:
        ConfigurationError: the checkpoint and the parameters do not go together.
    """
    if policy.action_dim != len(DIMENSION_NAMES):
        raise ConfigurationError(
            f"the checkpoint has {policy.action_dim} action dimensions; vla_node publishes "
            f"{len(DIMENSION_NAMES)} ({', '.join(DIMENSION_NAMES)}). Use the Python API instead")
    if settings["use_proprio"] == "on" and not policy.uses_proprio:
        raise ConfigurationError("use_proprio is on, but the checkpoint has no proprio projector: "
                                 "set it to auto or off")
    if settings["use_proprio"] == "off" or not policy.uses_proprio:
        return False
    size = 6 + len(settings["gripper.joints"])
    if size != policy.proprio_dim:
        raise ConfigurationError(
            f"proprio has {size} values (6 of the pose, {size - 6} of gripper.joints), but the "
            f"checkpoint takes {policy.proprio_dim}: change gripper.joints, or set use_proprio to "
            "off")
    return True


def describe_from_file(arm: ArmTracker, settings: VlaSettings) -> None:
    """Give the arm the robot description of robot_description_file.

    Raises:
        RobotDescriptionError: it cannot be read, is no URDF, or lacks the frames.
    """
    path = Path(settings["robot_description_file"]).expanduser()
    try:
        arm.describe(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RobotDescriptionError(
            f"robot_description_file {path} cannot be read: {error}") from error
    except ConfigurationError as error:
        raise RobotDescriptionError(f"{path}: {error}") from error


def fingerprint(settings: VlaSettings) -> tuple:
    """What decides whether configuring can succeed; it changes when a parameter or a file does."""
    files = [Path(settings["robot_description_file"]).expanduser()]
    folder = checkpoint_path(settings)
    try:
        files += sorted(folder.iterdir())
    except OSError:
        files.append(folder)
    return (settings.revision, *map(_signature, files))


def _signature(path: Path) -> tuple:
    try:
        status = path.stat()
    except OSError:
        return (path.name, None)
    return (path.name, status.st_size, status.st_mtime_ns)
