"""The messages of vla_node, made from the dataclasses of specprune_ros.types."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from std_msgs.msg import Header

from specprune_ros.msg import ActionChunk, PruneStats, VlaStatus

from ..types import PruneReport
from .conversions import ns_to_stamp
from .engine import Counters
from .inference import QueryResult
from .loading import DIMENSION_NAMES
from .planner import QueryPlanner
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
        tokens_per_layer=[len(positions) for positions in report.kept_positions],
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


@dataclass(frozen=True)
class Health:
    """What VlaStatus says. The inputs are empty while the node is unconfigured."""

    state: int
    fault_code: int
    fault_text: str
    faults: int
    parameter_revision: int
    planner: QueryPlanner | None = None
    counters: Counters | None = None

    @property
    def edge(self) -> tuple:
        """What a change of is published at once."""
        task = (self.planner.instruction, self.planner.episode) if self.planner else ()
        return (self.state, self.fault_code, self.fault_text, self.parameter_revision, task)


def status_message(health: Health, now: int, settings: VlaSettings) -> VlaStatus:
    """VlaStatus at ``now`` (ns)."""
    msg = VlaStatus(header=header(now, settings), state=health.state,
                    fault_code=health.fault_code, fault_text=health.fault_text,
                    faults=health.faults, parameter_revision=health.parameter_revision)
    if health.planner is not None:
        planner = health.planner
        msg.instruction, msg.episode = planner.instruction, planner.episode
        msg.unsynchronised = planner.unsynchronised
        msg.inputs = list(planner.inputs)
        msg.input_ages = [math.nan if age is None else age for age in planner.ages(now)]
    if health.counters is not None:
        for name, count in vars(health.counters).items():
            setattr(msg, name, count)
    return msg
