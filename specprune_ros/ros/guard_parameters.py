"""The parameters of vla_node that say what may be published, and what happens where it may not."""
from __future__ import annotations

import math
from collections.abc import Mapping

from ..errors import ConfigurationError
from ..robot.guard import MOTION, GuardLimits
from .parameters import Change, ParameterSpec

_LIVE = Change.LIVE

GUARD_PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec("dry_run", False, "Publish chunks on action_chunk_preview and nothing on "
                  "action_chunk, so that nothing moves."),
    # --- guard: a chunk that breaks one of these is refused as a whole
    ParameterSpec("guard.max_command", 3.0, "Largest value of an action before saturation, in "
                  "controller units; values from 1 on are saturated, beyond this refused.",
                  _LIVE, 1.0, 1000.0),
    ParameterSpec("guard.axis_limit", (1.0,), "Largest value of x, y, z, rx, ry, rz after "
                  "saturation, in controller units; one for all, or one each.", _LIVE, 0.0, 1.0),
    ParameterSpec("guard.step.translation", 0.1, "Largest translation in one control period, m.",
                  _LIVE, 0.0, 10.0),
    ParameterSpec("guard.step.rotation", 1.0, "Largest rotation in one control period, rad.",
                  _LIVE, 0.0, 10.0),
    ParameterSpec("guard.change.translation", 0.2, "Largest change of the translation from one "
                  "control period to the next, m.", _LIVE, 0.0, 10.0),
    ParameterSpec("guard.change.rotation", 2.0, "Largest change of the rotation from one control "
                  "period to the next, rad.", _LIVE, 0.0, 10.0),
    ParameterSpec("guard.jump.translation", 0.2, "Largest distance in m of the tool from where "
                  "the observation of the chunk was taken to where it is now.", _LIVE, 0.0, 10.0),
    ParameterSpec("guard.jump.rotation", 1.0, "Largest rotation in rad of the tool from where the "
                  "observation of the chunk was taken to where it is now.", _LIVE, 0.0, math.pi),
    ParameterSpec("guard.workspace.enabled", False, "Refuse chunks that would take the tool out "
                  "of the box; needs the state of the arm."),
    ParameterSpec("guard.workspace.lower", (-1.0, -1.0, -0.5), "Lower corner x, y, z of the box in "
                  "base_frame, m.", _LIVE, -100.0, 100.0),
    ParameterSpec("guard.workspace.upper", (1.0, 1.0, 1.5), "Upper corner x, y, z of the box in "
                  "base_frame, m.", _LIVE, -100.0, 100.0),
    ParameterSpec("guard.max_age", 0.0, "Largest age in s of the observation when its chunk is "
                  "published; 0 for as long as the chunk lasts.", _LIVE, 0.0, 3600.0),
    ParameterSpec("guard.latch_after", 10, "Queries in a row without a chunk that may be "
                  "published, after which the fault is latched.", _LIVE, 1, 1_000_000),
    # --- watchdogs
    ParameterSpec("watchdog.inference_deadline", 1.0, "Longest time of a query in s on the ROS "
                  "clock; then a hold chunk is published and the result is dropped.",
                  _LIVE, 0.01, 3600.0),
    ParameterSpec("watchdog.latch_after", 10.0, "Seconds on the ROS clock without input, or "
                  "without a chunk, after which the fault is latched.", _LIVE, 0.0, 1e6),
    # --- shadow
    ParameterSpec("shadow.every", 0, "Every n-th query is also run dense, to compare the actions; "
                  "0 for never.", _LIVE, 0, 1_000_000),
    ParameterSpec("shadow.limit", 0.25, "Mean absolute difference of the normalised actions from "
                  "the dense ones beyond which queries are dense for a while.", _LIVE, 0.0, 2.0),
    ParameterSpec("shadow.dense_queries", 20, "How many queries that while lasts.",
                  _LIVE, 1, 1_000_000),
)


def guard_limits(settings: Mapping, needs_pose: bool) -> GuardLimits:
    """The guard's limits of the settings of a node.

    Raises:
        ConfigurationError: values make no sense together.
    """
    axis = settings["guard.axis_limit"]
    if len(axis) not in (1, MOTION):
        raise ConfigurationError(f"guard.axis_limit has {len(axis)} values; give {MOTION} (x, y, "
                                 "z, rx, ry, rz), or one for all")
    box = (settings["guard.workspace.lower"], settings["guard.workspace.upper"])
    limits = GuardLimits(
        max_command=settings["guard.max_command"],
        axis=axis * MOTION if len(axis) == 1 else axis,
        step_translation=settings["guard.step.translation"],
        step_rotation=settings["guard.step.rotation"],
        change_translation=settings["guard.change.translation"],
        change_rotation=settings["guard.change.rotation"],
        jump_translation=settings["guard.jump.translation"],
        jump_rotation=settings["guard.jump.rotation"],
        workspace=box,  # checked even where it is not used
        max_age=settings["guard.max_age"] or math.inf,
        needs_pose=needs_pose,
    )
    return limits if settings["guard.workspace.enabled"] else limits.without_workspace()
