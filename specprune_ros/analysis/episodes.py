"""Closed-loop episodes in a simulator: an actor acts until success or the end of its time."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from specprune_ros.analysis.recording import Recording
from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Policy
from specprune_ros.robot.gripper import to_env_actions
from specprune_ros.sim import SimObservation, Simulator
from specprune_ros.types import ActionChunk, Mode, Observation


class Actor(Protocol):
    """Who acts. ``source`` goes into recordings."""

    source: str

    def start(self, simulator: Simulator) -> None:
        """A new episode begins."""

    def wants_images(self) -> bool:
        """Whether the next ``act`` does something with the images of its observation."""

    def act(self, simulator: Simulator, observation: SimObservation) -> np.ndarray:
        """Action [7] in the environment's convention for this control period."""


class ExpertActor:
    """The scripted expert of the tabletop: it sees the simulator's state, not its pictures."""

    source = "scripted expert"

    def start(self, simulator: Simulator) -> None:
        from specprune_ros.sim.tabletop.expert import ScriptedExpert
        from specprune_ros.sim.tabletop.world import TabletopSimulator

        if not isinstance(simulator, TabletopSimulator):
            raise ConfigurationError(
                f"suite '{simulator.suite}' has no scripted expert: use --actor policy"
            )
        self._expert = ScriptedExpert()

    def wants_images(self) -> bool:
        return False

    def act(self, simulator: Simulator, observation: SimObservation) -> np.ndarray:
        return self._expert.act(simulator)


class PolicyActor:
    """A policy that plays ``replan`` actions of each chunk (default: all) before the next query.

    chunks, cpu_ms, wall_ms: what the queries of the running episode gave and took. on_query: called
    after each with what was asked and answered; its time does not count.
    """

    def __init__(
        self,
        policy: Policy,
        replan: int | None = None,
        on_query: Callable[[Observation, ActionChunk], None] | None = None,
    ) -> None:
        replan = policy.chunk_length if replan is None else replan
        if not 1 <= replan <= policy.chunk_length:
            raise ConfigurationError(
                f"a chunk has {policy.chunk_length} actions, {replan} of them cannot be played"
            )
        self.source = f"policy, pruning '{policy.pruner.name}'"
        self._policy, self._replan, self._on_query = policy, replan, on_query

    def start(self, simulator: Simulator) -> None:
        self._episode = self._policy.make_episode()
        self._queue: list[np.ndarray] = []
        self.chunks: list[ActionChunk] = []
        self.cpu_ms: list[float] = []
        self.wall_ms: list[float] = []

    def wants_images(self) -> bool:
        """At queries, and in between for methods that compare frames."""
        return not self._queue or getattr(self._policy.pruner, "looks_back", True)

    def act(self, simulator: Simulator, observation: SimObservation) -> np.ndarray:
        if self._queue:
            self._policy.observe(
                observation.images or None, observation.stamp, observation.ee_twist, self._episode
            )
        else:
            proprio = observation.proprio if self._policy.uses_proprio else None
            query = Observation(observation.images, simulator.instruction, proprio,
                                observation.stamp, observation.ee_twist)
            cpu, wall = time.process_time(), time.perf_counter()
            chunk = self._policy.predict(query, self._episode)
            self.cpu_ms.append((time.process_time() - cpu) * 1e3)
            self.wall_ms.append((time.perf_counter() - wall) * 1e3)
            self.chunks.append(chunk)
            if self._on_query is not None:
                self._on_query(query, chunk)
            self._queue = list(to_env_actions(chunk.actions)[: self._replan])
        return self._queue.pop(0)


@dataclass(frozen=True)
class Step:
    """An observation, the action it was answered with, and whether that led to success."""

    observation: SimObservation
    action: np.ndarray
    success: bool


def play(
    simulator: Simulator,
    actor: Actor,
    seed: int,
    task: int | None = None,
    max_steps: int | None = None,
    all_images: bool = True,
) -> Iterator[Step]:
    """One episode from the initial state ``seed``, at most ``max_steps`` (default: the suite's).

    all_images: False renders only what the actor looks at, which changes nothing but the time.
    """
    observation = simulator.reset(task, seed)
    actor.start(simulator)
    limit = simulator.max_steps if max_steps is None else max_steps
    for number in range(limit):
        if number:
            observation = simulator.observe(render=all_images or actor.wants_images())
        action = actor.act(simulator, observation)
        success = simulator.step(action)
        yield Step(observation, np.asarray(action, np.float64), success)
        if success:
            return


def record_episode(
    simulator: Simulator,
    actor: Actor,
    seed: int,
    task: int | None = None,
    max_steps: int | None = None,
) -> Recording:
    """Play an episode and keep all of it: one row per control period, before its action."""
    steps = list(play(simulator, actor, seed, task, max_steps))
    observations = [step.observation for step in steps]
    cameras = tuple(observations[0].images)
    return Recording(
        cameras=cameras,
        frames=np.stack([[o.images[name] for name in cameras] for o in observations]),
        stamps=np.array([o.stamp for o in observations]),
        instruction=simulator.instruction,
        control_period=simulator.control_period,
        proprio=np.stack([o.proprio for o in observations]),
        ee_twists=np.stack([o.ee_twist for o in observations]),
        joint_names=tuple(observations[0].joint_names),
        joint_positions=np.stack([o.joint_positions for o in observations]),
        joint_velocities=np.stack([o.joint_velocities for o in observations]),
        actions=np.stack([step.action for step in steps]),
        success=steps[-1].success,
        suite=simulator.suite,
        seed=seed,
        source=actor.source,
    )


@dataclass
class ClosedLoop:
    """Episodes of one policy."""

    successes: list[bool] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    fine: list[bool] = field(default_factory=list)

    def summary(self) -> dict[str, float | int]:
        """Plain numbers for JSON."""
        return {
            "episodes": len(self.successes),
            "successes": sum(self.successes),
            "success_rate": float(np.mean(self.successes)),
            "steps_mean": float(np.mean(self.steps)),
            "queries_mean": float(np.mean(self.queries)),
            "fine_share": float(np.mean(self.fine)),
            "cpu_ms_median": float(np.median(self.cpu_ms)),
        }


def closed_loop(
    simulator: Simulator,
    policy: Policy,
    episodes: int,
    seed: int,
    max_steps: int | None = None,
    progress=lambda: None,
) -> ClosedLoop:
    """Episodes of the initial states seed, seed + 1, ...: the same for every policy."""
    found = ClosedLoop()
    actor = PolicyActor(policy)
    for number in range(episodes):
        steps = list(
            _without_pictures(play(simulator, actor, seed + number, max_steps=max_steps,
                                   all_images=False))
        )
        found.successes.append(steps[-1])
        found.steps.append(len(steps))
        found.queries.append(len(actor.chunks))
        found.cpu_ms += actor.cpu_ms
        found.fine += [chunk.report.mode is Mode.FINE for chunk in actor.chunks]
        progress()
    return found


def _without_pictures(steps: Iterator[Step]) -> Iterator[bool]:
    """Success of each step; a long episode's pictures are not held in memory."""
    for step in steps:
        yield step.success
