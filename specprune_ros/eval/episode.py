"""One episode of one method: the same function in this process, in workers and on a cluster."""
from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from specprune_ros.analysis.episodes import PolicyActor, play
from specprune_ros.analysis.threads import numeric_threads
from specprune_ros.errors import MethodUnavailable
from specprune_ros.eval.methods import VIEWS, make_method
from specprune_ros.eval.record import Query, Record, played_record
from specprune_ros.eval.settings import EvalSettings
from specprune_ros.eval.worlds import Perturbation, Perturbed
from specprune_ros.policy import Policy, load_policy
from specprune_ros.pruning.methods.common import Counts
from specprune_ros.sim import Simulator, make_simulator
from specprune_ros.sim.view import Measured
from specprune_ros.types import ActionChunk, Observation


@dataclass(frozen=True)
class Arm:
    """A method as it is set, under a perturbation. knob None: its own settings."""

    method: str
    knob: float | None = None
    perturbation: Perturbation = field(default_factory=Perturbation)


@dataclass(frozen=True)
class Job:
    """An episode to play. task: index into the suite's. counts: for a method that copies them."""

    arm: Arm
    task: int
    init_state: int
    counts: Counts | None = None

    @property
    def key(self) -> str:
        """Names the episode within an evaluation."""
        arm = self.arm
        knob = "" if arm.knob is None else f"@{arm.knob:.6f}"
        return f"{arm.method}{knob}|{arm.perturbation.label}|{self.task}|{self.init_state}"


def run_job(settings: EvalSettings, job: Job) -> Record:
    """Play the episode. All but ``timing`` depends on settings and job alone."""
    # Sums over another number of threads round differently, and so may an episode end.
    with numeric_threads(settings.threads):
        return _worker(settings).run(job)


_workers: dict[EvalSettings, Worker] = {}  # one at a time


def _worker(settings: EvalSettings) -> Worker:
    if settings not in _workers:
        close_worker()
        _workers[settings] = Worker(settings)
    return _workers[settings]


def close_worker() -> None:
    """Free simulator and checkpoint of this process."""
    while _workers:
        _workers.popitem()[1].simulator.close()


class Worker:
    """A simulator and a checkpoint, loaded once per process."""

    def __init__(self, settings: EvalSettings) -> None:
        settings.verify()
        self.settings = settings
        self.simulator: Simulator = make_simulator(settings.suite, settings.render_size)
        settings.verify_simulator(self.simulator)
        self.dense = load_policy(
            settings.checkpoint,
            device=settings.device,
            dtype=settings.dtype,
            unnorm_key=settings.unnorm_key,
            pruning="off",
            chunk_length=settings.chunk_length,
            control_period=self.simulator.control_period,
        )
        self._policies: dict[str, Policy] = {}

    def run(self, job: Job) -> Record:
        head = {"key": job.key, "task": job.task, "init_state": job.init_state}
        try:
            policy = self._policy(job)
            return head | self._play(job, policy)
        except MethodUnavailable as error:
            return head | {"unavailable": str(error)}

    def _policy(self, job: Job) -> Policy:
        """One policy per method, warmed up: building tables is nobody's latency."""
        method = job.arm.method
        if method not in self._policies:
            policy = self.dense.with_pruning(make_method(method))
            policy.warm_up()
            self._policies[method] = policy
        policy = self._policies[method]
        policy.set_pruning(make_method(method, job.arm.knob, job.counts, job.init_state))
        return policy

    def _world(self, arm: Arm) -> Simulator:
        world = self.simulator
        if arm.perturbation != Perturbation():
            world = Perturbed(world, arm.perturbation)
        world = Measured(world)
        return VIEWS[arm.method](world) if arm.method in VIEWS else world

    def _play(self, job: Job, policy: Policy) -> Record:
        distance = _Distance(self.dense) if self._wants_distance(job) else None
        actor = PolicyActor(policy, self.settings.replan, distance)
        world = self._world(job.arm)
        queries: list[Query] = []
        steps, success = 0, False
        began = time.perf_counter()
        for step in play(world, actor, job.init_state, job.task, self.settings.max_steps,
                         all_images=False):
            if len(actor.chunks) > len(queries):
                queries.append(Query.of(steps, actor.chunks[-1]))
            steps, success = steps + 1, step.success
        wall = time.perf_counter() - began
        cameras = [camera.name for camera in actor.chunks[0].report.cameras]
        return {
            "instruction": world.instruction,
            "success": bool(success),
            **played_record(queries, steps, cameras, self.simulator.control_period),
            "distance": None if distance is None else distance.values,
            "timing": {"wall_s": wall, "latency_ms": actor.wall_ms, "cpu_ms": actor.cpu_ms},
        }

    def _wants_distance(self, job: Job) -> bool:
        # A view's dense policy would be compared with itself.
        return self.settings.action_distance and job.arm.method not in VIEWS


class _Distance:
    """Mean absolute difference of a chunk from the dense one, in normalised units, per query."""

    def __init__(self, dense: Policy) -> None:
        self._dense = dense
        self.values: list[float] = []

    def __call__(self, observation: Observation, chunk: ActionChunk) -> None:
        dense = self._dense.predict(observation, self._dense.make_episode())
        difference = chunk.normalized_actions.astype(np.float64) - dense.normalized_actions
        self.values.append(float(np.abs(difference).mean()))
