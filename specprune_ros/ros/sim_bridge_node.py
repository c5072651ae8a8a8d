"""ROS 2 node that joins a simulator to topics: cameras, joints and clock out, chunks in.

Topics, QoS and pacing are described in docs/architecture.md. One thread does everything, since
off-screen rendering is bound to the thread that made its context.
"""
from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from specprune_ros.msg import SimStatus

from ..errors import ConfigurationError, SpecpruneError
from ..robot.chunk import ChunkPlayer
from ..sim.base import SimObservation, Simulator
from .conversions import NANOSECONDS, ns_to_stamp
from .sim_chunks import ChunkContract, PlayableChunk
from .sim_link import PolicyLink
from .sim_outputs import WorldOutputs
from .sim_parameters import declare_parameters
from .sim_requests import EpisodeQueue
from .spinning import stop_signals

SimulatorFactory = Callable[..., Simulator]


@dataclass
class Episode:
    """The running episode: its number and initial state, and how far it is."""

    number: int
    init_state: int
    instruction: str
    base_ns: int  # ROS time of the simulator's reset
    observation: SimObservation
    step: int = 0
    success: bool = False
    done: bool = False

    @property
    def stamp_ns(self) -> int:
        return self.base_ns + round(self.observation.stamp * NANOSECONDS)


class SimBridgeNode(Node):
    """Runs episodes of a simulator and plays received chunks.

    make: ``make(suite, render_size=, view=)`` returns a Simulator; by default
    :func:`specprune_ros.sim.make_simulator`. stopping: whether :meth:`run` shall end, by an
    ExternalShutdownException. The constructor, :meth:`run` and :meth:`close` must be called in one
    thread.
    """

    def __init__(self, make: SimulatorFactory | None = None,
                 stopping: Callable[[], bool] = lambda: False, **options: object) -> None:
        super().__init__("sim_bridge_node", **options)
        self.parameters = p = declare_parameters(self)
        if make is None:
            from ..sim import make_simulator as make
        self.simulator = make(p.suite, render_size=p.render_size, view=p.view)
        period = self.simulator.control_period
        self._period_ns = round(period * NANOSECONDS)
        self._now_ns = 0
        self._lockstep = p.pacing == "lockstep"
        self._player = ChunkPlayer(period)
        self._holding = False  # whether the chunk in play is a hold
        self._outputs = WorldOutputs(self, p)
        self._link = PolicyLink(self, ChunkContract(
            period, self.simulator.base_frame, p.replan_steps if self._lockstep else 1),
            p.chunk_timeout, stopping)
        self._queue = EpisodeQueue(self, p, len(self.simulator.tasks))
        self._published: dict[int, float] = {}  # when (time.monotonic) the picture of a stamp was
        self._totals = SimStatus(suite=p.suite,
                                 max_steps=p.max_steps or self.simulator.max_steps)

    def run(self) -> None:
        """Run the episodes; without end if the parameter ``episodes`` is 0."""
        p = self.parameters
        self._outputs.describe_robot(self.simulator.robot_description())
        number = 0
        while not p.episodes or number < p.episodes:
            episode = self._begin(number, *self._queue.begin(self._link.spin_until))
            (self._play_lockstep if self._lockstep else self._play_realtime)(episode)
            self._queue.end()
            number += 1
        self._outputs.flush()  # what is on its way would be lost with the process
        t = self._totals
        self.get_logger().info(
            f"{t.episodes_done} episodes, {t.successes} successes, {t.chunks} chunks played, "
            f"{self._link.rejected} rejected, {t.held_steps} control periods held")

    def close(self) -> None:
        """Release the simulator and the node."""
        self._link.close()
        self.simulator.close()
        self.destroy_node()

    # ---- episodes ----------------------------------------------------------------------------

    def _begin(self, number: int, task: int | None, init_state: int) -> Episode:
        first = self.simulator.reset(task, init_state)
        if not first.images:
            first = self.simulator.observe()
        missing = [name for name in self.parameters.cameras if name not in first.images]
        if missing:
            raise ConfigurationError(f"suite {self.parameters.suite} has no camera "
                                     f"{', '.join(missing)}; cameras may name "
                                     f"{', '.join(first.images)}")
        # Time goes on from episode to episode: it never jumps back, and it never is 0, which ROS
        # takes for "no time yet".
        base_ns = self._now_ns + self._period_ns - round(first.stamp * NANOSECONDS)
        # Stripped, as vla_node repeats it in its chunks.
        instruction = self.simulator.instruction.strip()
        episode = Episode(number, init_state, instruction, base_ns, first)
        self._player.reset()
        self._holding = False
        self._published.clear()
        self._totals.observation_age = math.nan
        self._link.begin_episode(episode.stamp_ns, lambda: self._outputs.time(episode.stamp_ns),
                                 None if self._lockstep else self.parameters.chunk_timeout)
        self._outputs.instruct(episode.instruction)
        self._link.await_instruction(episode.instruction)
        self._link.expect(episode.instruction, episode.stamp_ns, exact=self._lockstep)
        self._publish(episode)
        return episode

    def _play_lockstep(self, episode: Episode) -> None:
        """Wait for the chunk of each last observation, play replan_steps rows of it."""
        while not episode.done:
            chunk = self._link.await_chunk(
                lambda: self._outputs.observation(episode.observation, episode.stamp_ns))
            self._load(chunk)
            for _ in range(self.parameters.replan_steps):
                self._link.serve()
                self._step(episode, self._action(self._player.next_row()))
                if episode.done:
                    break

    def _play_realtime(self, episode: Episode) -> None:
        """Play the row that the time asks for; hold where there is none."""
        period = self.simulator.control_period / self.parameters.real_time_factor
        due = time.monotonic()
        while not episode.done:
            self._link.serve()
            chunk = self._link.take_newest()
            if chunk is not None:
                self._load(chunk)
            action = self._action(self._player.row_at(episode.stamp_ns / NANOSECONDS))
            # A world that cannot keep up runs slower than asked; it does not catch up in a burst.
            due = max(due + period, time.monotonic())
            self._link.spin_until(lambda: False, due - time.monotonic())
            self._step(episode, action)

    def _load(self, chunk: PlayableChunk) -> None:
        if not self._player.load(chunk.actions, chunk.stamp, alone=chunk.hold):
            return
        self._holding = chunk.hold
        if not chunk.hold:
            self._totals.chunks += 1
            self._totals.observation_age = (
                chunk.received - self._published.get(chunk.stamp_ns, math.nan))

    def _action(self, row: np.ndarray | None) -> np.ndarray:
        """The action [7] of a control period: the row, or no motion where there is none."""
        self._totals.held_steps += row is None or self._holding
        return self._player.hold_action() if row is None else row

    def _step(self, episode: Episode, action: np.ndarray) -> None:
        """One control period: act, look, publish."""
        episode.success = bool(self.simulator.step(action))
        episode.step += 1
        episode.done = episode.success or episode.step >= self._totals.max_steps
        episode.observation = self.simulator.observe(render=not episode.done)
        if episode.done:
            self._totals.episodes_done += 1
            self._totals.successes += episode.success
            self.get_logger().info(
                f"episode {episode.number} (initial state {episode.init_state}, "
                f"{episode.instruction!r}): {'success' if episode.success else 'no success'} "
                f"after {episode.step} steps")
        elif self._lockstep:
            self._link.expect(episode.instruction, episode.stamp_ns, exact=True)
        self._publish(episode)

    def _publish(self, episode: Episode) -> None:
        # After the last action of an episode nothing can be done about what the cameras see; an
        # image would only set off a query that races with the reset of the next episode.
        self._published[episode.stamp_ns] = time.monotonic()
        self._outputs.observation(episode.observation, episode.stamp_ns, images=not episode.done)
        self._now_ns = episode.stamp_ns
        status = self._totals
        status.header.stamp = ns_to_stamp(episode.stamp_ns)
        status.instruction, status.init_state = episode.instruction, episode.init_state
        status.episode, status.step = episode.number, episode.step
        status.done, status.success = episode.done, episode.success
        self._outputs.status(status)


def main(args: list[str] | None = None, make: SimulatorFactory | None = None) -> int:
    """Entry point: 0 after the last episode, SIGINT or SIGTERM; 1 for an error that it logs."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        with stop_signals() as stopping:
            node = SimBridgeNode(make, stopping.is_set)
            node.run()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (SpecpruneError, ParameterException) as error:
        get_logger("sim_bridge_node").fatal(str(error))
        return 1
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
