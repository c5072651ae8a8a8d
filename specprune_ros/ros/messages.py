"""Results of vla_node as messages, made from the dataclasses of specprune_ros.types."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from std_msgs.msg import Header

from specprune_ros.msg import ActionChunk, PruneStats

from ..types import PruneReport
from .conversions import ns_to_stamp
from .loading import DIMENSION_NAMES
from .query import QueryResult, Source
from .safety import Seam
from .vla_parameters import VlaSettings


def header(stamp: int, settings: VlaSettings) -> Header:
    """Header with a stamp in ns and the base frame of the arm."""
    return Header(stamp=ns_to_stamp(stamp), frame_id=settings["base_frame"])


@dataclass(frozen=True)
class Hold:
    """A chunk that is not of the policy: actions [C, 7], no motion. stamp: ns. why: for logs."""

    stamp: int
    actions: np.ndarray
    instruction: str
    episode: int
    settings: VlaSettings
    why: str


@dataclass(frozen=True)
class Published:
    """What became of a result: when it was published (ns), and what that showed.

    shadow_distance: NaN without a shadow query.
    """

    result: QueryResult
    time: int
    seam: Seam
    shadow_distance: float = math.nan


def chunk_message(result: QueryResult) -> ActionChunk:
    """ActionChunk of a query."""
    job, report = result.job, result.chunk.report
    message = _rows_message(result.chunk.actions, job.query.stamp, job.settings)
    message.instruction = job.instruction
    message.episode = job.episode
    message.query_number = report.query_number
    message.mode = int(report.mode)
    message.source = int(result.source)
    message.inference_time = result.inference_time
    return message


def hold_message(hold: Hold) -> ActionChunk:
    """ActionChunk without motion."""
    message = _rows_message(hold.actions, hold.stamp, hold.settings)
    message.instruction = hold.instruction
    message.episode = hold.episode
    message.source = int(Source.HOLD)
    return message


def _rows_message(actions: np.ndarray, stamp: int, settings: VlaSettings) -> ActionChunk:
    scale = [settings["unit_scale.translation"]] * 3 + [settings["unit_scale.rotation"]] * 3
    return ActionChunk(
        header=header(stamp, settings),
        dt=settings["control_period"],
        horizon=actions.shape[0],
        dof=actions.shape[1],
        data=np.asarray(actions, np.float64).ravel().tolist(),
        names=list(DIMENSION_NAMES),
        action_space=ActionChunk.EE_DELTA_POSE,
        unit_scale=[*scale, 1.0],
        gripper_convention=ActionChunk.ZERO_CLOSE_ONE_OPEN,
        parameter_revision=settings.revision,
    )


def stats_message(published: Published) -> PruneStats:
    """PruneStats of a query whose chunk was published."""
    result = published.result
    report, job = result.chunk.report, result.job
    cameras = report.cameras
    stages = range(len(report.dynamic_layers))
    return PruneStats(
        header=header(job.query.stamp, job.settings),
        episode=job.episode,
        query_number=report.query_number,
        parameter_revision=job.settings.revision,
        method=report.method,
        mode=int(report.mode),
        dense_refresh=report.dense_refresh,
        cold=report.cold,
        cameras=[camera.name for camera in cameras],
        tokens_in=[camera.tokens_in for camera in cameras],
        kept_global=[camera.global_set for camera in cameras],
        kept_dynamic=[camera.dynamic_set for camera in cameras],
        kept_local=[camera.local_set for camera in cameras],
        kept_static=[camera.kept_static for camera in cameras],
        dynamic_layers=list(report.dynamic_layers),
        kept_after_dynamic=[camera.kept_dynamic[i] for i in stages for camera in cameras],
        visual_tokens_per_layer=[n for layer in report.visual_tokens_per_layer for n in layer],
        tokens_per_layer=[len(positions) for positions in report.kept_positions],
        kept_hashes=list(report.kept_hashes),
        **_speeds(report),
        threshold_names=list(report.thresholds),
        threshold_values=[float(value) for value in report.thresholds.values()],
        stage_names=list(report.stage_ms),
        stage_times=[ms / 1000.0 for ms in report.stage_ms.values()],
        observation_age=(published.time - job.query.stamp) / 1e9,
        flops=float(report.flops),
        dense_flops=float(report.dense_flops),
        source=int(result.source),
        saturated=result.saturated,
        seam_translation=published.seam.translation,
        seam_rotation=published.seam.rotation,
        shadow_distance=published.shadow_distance,
    )


def _speeds(report: PruneReport) -> dict[str, float]:
    return {
        "translational_speed": report.speeds.get("translation", math.nan),
        "rotational_speed": report.speeds.get("rotation", math.nan),
        "vertical_velocity": report.speeds.get("vertical", math.nan),
    }
