"""What the queries see: several episodes that take turns, so that no input is measured twice."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specprune_ros.analysis.recording import Recording
from specprune_ros.analysis.synthetic import synthetic_recording
from specprune_ros.policy import Episode, Observation, Policy

SETS = 3  # episodes that take turns
_STEPS = 160  # control periods after which a moving stream starts over
#: End-effector speeds (m/s) that the default controller calls coarse and fine.
SPEEDS = {"coarse": 0.3, "fine": 0.0}
_WORDS = "pick up the red green blue yellow orange purple cube block and place it on the plate tray"


@dataclass(frozen=True)
class Workload:
    """scene: ``static`` (no picture changes) or ``moving``. mode: of the controller. size: edge of
    the camera pictures, px. cameras: their number. instruction: of all queries.
    """

    scene: str
    mode: str
    size: int
    cameras: int
    instruction: str
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return ("primary", "wrist", "wrist_2")[: self.cameras]


def instruction_of(policy: Policy, prompt_tokens: int) -> str:
    """An instruction whose prompt has so many tokens after BOS, or nearly."""
    words, text = _WORDS.split(), "pick"
    for index in range(10 * len(words)):
        if len(policy.inputs.prompt(text).ids) - 1 >= prompt_tokens:
            break
        text += " " + words[index % len(words)]
    while len(policy.inputs.prompt(text).ids) - 1 > prompt_tokens and len(text) > 4:
        text = text[:-1].rstrip()
    return text


class Stream:
    """One arm's queries: an episode per set, advanced query by query."""

    def __init__(self, policy: Policy, workload: Workload, recordings: list[Recording]) -> None:
        self.policy, self._workload, self._recordings = policy, workload, recordings
        self._episodes: list[Episode] = [policy.make_episode() for _ in recordings]
        self._queries = [0] * len(recordings)
        twist = np.zeros(6)
        twist[0] = SPEEDS[workload.mode]
        self._twist = twist

    def ready(self, which: int) -> tuple[Observation, Episode]:
        """The next observation of a set, after the frames in between were shown."""
        recording, episode = self._recordings[which], self._episodes[which]
        every = self.policy.chunk_length
        step = every * self._queries[which]
        for between in range(max(0, step - every + 1), step):
            self.policy.observe(
                recording.images(between % recording.steps), self._stamp(between), self._twist,
                episode=episode,
            )
        self._queries[which] += 1
        proprio = self.policy.statistics.proprio.low if self.policy.uses_proprio else None
        observation = Observation(
            recording.images(step % recording.steps), self._workload.instruction, proprio,
            self._stamp(step), self._twist,
        )
        return observation, episode

    def _stamp(self, step: int) -> float:
        return step * self.policy.control_period


def make_recordings(workload: Workload) -> list[Recording]:
    """The pictures of each set."""
    kind, steps = ("static", 1) if workload.scene == "static" else ("square", _STEPS)
    return [
        synthetic_recording(kind, steps, workload.seed + number, workload.size, workload.names)
        for number in range(SETS)
    ]
