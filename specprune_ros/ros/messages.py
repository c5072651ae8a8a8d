"""Results of vla_node as messages, made from the dataclasses of specprune_ros.types."""
from __future__ import annotations

import math

import numpy as np
from std_msgs.msg import Header

from specprune_ros.msg import ActionChunk, PruneStats

from ..types import PruneReport
from .conversions import ns_to_stamp
from .inference import QueryResult
from .loading import DIMENSION_NAMES
from .vla_parameters import VlaSettings


def header(stamp: int, settings: VlaSettings) -> Header:
    """Header with a stamp in ns and the base frame of the arm."""
    return Header(stamp=ns_to_stamp(stamp), frame_id=settings["base_frame"])


def chunk_message(result: QueryResult) -> ActionChunk:
    """ActionChunk of a query."""
    settings, actions = result.job.settings, result.chunk.actions
    scale = [settings["unit_scale.translation"]] * 3 + [settings["unit_scale.rotation"]] * 3
    return ActionChunk(
        header=header(result.job.query.stamp, settings),
        dt=settings["control_period"],
        horizon=actions.shape[0],
        dof=actions.shape[1],
        data=np.asarray(actions, np.float64).ravel().tolist(),
        names=list(DIMENSION_NAMES),
        action_space=ActionChunk.EE_DELTA_POSE,
        unit_scale=[*scale, 1.0],
        gripper_convention=ActionChunk.ZERO_CLOSE_ONE_OPEN,
        instruction=result.job.instruction,
        episode=result.job.episode,
        query_number=result.chunk.report.query_number,
        mode=int(result.chunk.report.mode),
        parameter_revision=settings.revision,
        inference_time=result.inference_time,
    )


def stats_message(result: QueryResult, now: int) -> PruneStats:
    """PruneStats of a query; ``now`` in ns on the ROS clock, when the chunk is published."""
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
        observation_age=(now - job.query.stamp) / 1e9,
        flops=float(report.flops),
        dense_flops=float(report.dense_flops),
    )


def _speeds(report: PruneReport) -> dict[str, float]:
    return {
        "translational_speed": report.speeds.get("translation", math.nan),
        "rotational_speed": report.speeds.get("rotation", math.nan),
        "vertical_velocity": report.speeds.get("vertical", math.nan),
    }
