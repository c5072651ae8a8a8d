"""An engine of ``eval`` that plays each episode through sim_bridge_node and vla_node."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..bringup import launch_nodes, node_command, prepare_environment
from ..errors import SpecpruneError
from ..eval.episode import Job
from ..eval.methods import BY_RATIO
from ..eval.record import Query, Record, played_record
from ..eval.settings import EvalSettings
from ..processes import ProcessGroup
from ..sim import make_simulator

#: What would join these nodes to others: the evaluation has a domain of its own, on this machine.
_DDS_VARIABLES = ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS",
                  "ROS_LOCALHOST_ONLY")


class ThroughRosError(SpecpruneError):
    """An episode could not be played; the message says what stopped it and where the logs are."""


class ThroughRos:
    """One pair of nodes, in processes of their own, for all episodes; see ``eval.engines.Engine``.

    The nodes run at the defaults of their parameters but for what the settings say, whatever
    config/vla.yaml holds: so do episodes in process.
    """

    slots = 1

    def __init__(self, settings: EvalSettings, patience: float,
                 modules: Mapping[str, str] | None = None) -> None:
        """Start the processes, before the caller starts a thread; they load while it goes on.

        patience: wall seconds without news of the nodes after which they are given up.
        modules: modules to run in the place of a node's own, by the node's name.
        """
        self._settings = settings
        self._client = self._lock = None
        self._failed = False
        self.log_dir = Path(tempfile.mkdtemp(prefix="specprune_eval_"))
        self.group = ProcessGroup(self.log_dir)
        self._environment: dict[str, str | None] = {}  # variables that are set back by close()
        try:
            self._start(patience, modules or {})
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job) -> Job:
        return job

    def finished(self, handles: Sequence[Job]) -> tuple[Job, Record]:
        """Play the first of these jobs. Raises ThroughRosError."""
        job = handles[0]
        try:
            return job, self._play(job)
        except SpecpruneError as error:
            self._failed = True
            raise ThroughRosError(
                f"{job.arm.method}, initial state {job.init_state}: {error}\n"
                f"The logs of the nodes are in {self.log_dir}. Episodes that had ended are kept: "
                "--resume goes on from there") from error

    def close(self) -> None:
        """End the processes; the logs stay after an error only."""
        client, self._client = self._client, None
        try:
            if client is not None:
                client.close()
        finally:
            self.group.stop()
            if self._lock is not None:
                self._lock.close()
            _change_environment(self._environment)
            if not self._failed:
                shutil.rmtree(self.log_dir, ignore_errors=True)

    # ---- parts ---------------------------------------------------------------------------------

    def _start(self, patience: float, modules: Mapping[str, str]) -> None:
        environment = {n: v for n, v in os.environ.items() if n not in _DDS_VARIABLES}
        self._lock = prepare_environment(environment)
        environment["ROS_LOG_DIR"] = str(self.log_dir)
        self._set_environment(environment)
        simulator = make_simulator(self._settings.suite)
        try:
            self._period = simulator.control_period
            urdf = self.log_dir / "robot.urdf"
            urdf.write_text(simulator.robot_description(), encoding="utf-8")
            arm = {"base_frame": simulator.base_frame, "tool_frame": simulator.tool_frame,
                   "robot_description_file": str(urdf)}
        finally:
            simulator.close()
        self.group.start({
            spec.name: node_command(
                replace(spec, module=modules.get(spec.name, spec.module)), None,
                {**parameters, **(self._world() if spec.simulation else self._policy(arm))})
            for spec, parameters in launch_nodes({})})
        # Imported here: only now is the environment of DDS complete.
        from ..ros.episode_client import EpisodeClient

        self._client = EpisodeClient(int(os.environ["ROS_DOMAIN_ID"]), self._period,
                                     self._replan, self.group.check, patience)

    def _set_environment(self, wanted: Mapping[str, str]) -> None:
        """For the nodes and for this process, whose client has to find them."""
        names = os.environ.keys() | wanted.keys()
        changed = {n: wanted.get(n) for n in names if wanted.get(n) != os.environ.get(n)}
        self._environment = {name: os.environ.get(name) for name in changed}
        _change_environment(changed)

    @property
    def _replan(self) -> int:
        return self._settings.replan or self._settings.chunk_length

    def _world(self) -> dict[str, object]:
        """Parameters of sim_bridge_node."""
        settings = self._settings
        return {"suite": settings.suite, "render_size": settings.render_size, "on_request": True,
                "max_steps": settings.max_steps or 0, "replan_steps": self._replan,
                "pacing": "lockstep"}

    def _policy(self, arm: Mapping[str, str]) -> dict[str, object]:
        """Parameters of vla_node."""
        settings = self._settings
        return {"checkpoint": settings.checkpoint, "device": settings.device,
                "dtype": settings.dtype, "unnorm_key": settings.unnorm_key or "",
                "chunk_length": settings.chunk_length, "num_threads": settings.threads,
                "control_period": self._period, "replan_steps": self._replan, **arm}

    def _play(self, job: Job) -> Record:
        self._client.use_method(*node_method(job))
        played = self._client.play(job.task, job.init_state)
        queries = [Query(q.at, q.actions, q.kept, q.flops, q.dense_flops, q.fine, q.fallback)
                   for q in played.queries]
        return {
            "key": job.key,
            "task": job.task,
            "init_state": job.init_state,
            "instruction": played.instruction,
            "success": played.success,
            **played_record(queries, played.steps, played.cameras, self._period),
            "distance": None,
            "timing": {
                "wall_s": played.wall_s,
                "latency_ms": [1e3 * q.inference_s for q in played.queries],
                "observation_age_ms": [1e3 * q.age_s for q in played.queries],
            },
        }


def _change_environment(values: Mapping[str, str | None]) -> None:
    """Set variables of this process; None removes one."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def node_method(job: Job) -> tuple[str, int]:
    """What vla_node's parameters pruning and pruning_seed are for a job's method."""
    method = job.arm.method
    if method in BY_RATIO:
        return BY_RATIO[method], job.init_state
    return method, 0
