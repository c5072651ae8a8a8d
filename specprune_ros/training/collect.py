"""Demonstrations of the scripted expert, with counterfactual labels.

An episode runs the expert under noise, shoves and random starts, so that the data shows how to
recover. Every few control periods a sample is taken: both pictures, proprio, and the expert's next
actions for the task at hand *and for other tasks of the same scene*, found by forking the state of
the simulator. Without these other labels a policy learns to go to the nearest cube and ignores
the instruction, behind a validation loss that looks fine.
"""
from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np

from specprune_ros.errors import ConfigurationError
from specprune_ros.sim import make_simulator
from specprune_ros.sim.tabletop.expert import Phase, ScriptedExpert, expert_action

# Initial states by seed: training has this range, evaluation never does (docs/training.md).
TRAINING_SEEDS = range(1_000_000, 2_000_000)
CAMERAS = ("agentview", "robot0_eye_in_hand")
_JPEG_QUALITY = 95  # what the policy does to its pictures at run time
_BEFORE_GRASP = ("approach",)
_IN_HAND = ("lift", "carry")


@dataclass(frozen=True)
class CollectConfig:
    """What decides the content of the data.

    noise_levels: standard deviation of the drift on the translation, one drawn per episode
    (controller units). random_start: most periods of random motion at the start.
    """

    suite: str = "tabletop"
    episodes: int = 1000
    first_seed: int = TRAINING_SEEDS.start
    every: int = 3
    horizon: int = 8
    image_size: int = 256
    noise_levels: tuple[float, ...] = (0.0, 0.15, 0.35)
    shove_probability: float = 0.02
    random_start: int = 14
    relabels: int = 3
    shard_episodes: int = 20

    def __post_init__(self) -> None:
        last = self.first_seed + self.episodes
        if self.first_seed not in TRAINING_SEEDS or last > TRAINING_SEEDS.stop:
            raise ConfigurationError(
                f"seeds {self.first_seed}..{last - 1} are not all training seeds "
                f"({TRAINING_SEEDS.start}..{TRAINING_SEEDS.stop - 1})"
            )


def collect(config: CollectConfig, directory: Path, workers: int = 1) -> Iterator[tuple[int, int]]:
    """Write shards of episodes into ``directory``; yields (shards done, shards in all).

    Shards that are there already are kept, so an interrupted run continues. Raises
    ConfigurationError if the directory holds data of other settings.
    """
    directory.mkdir(parents=True, exist_ok=True)
    settings = directory / "collect.json"
    content = json.dumps(asdict(config), indent=1)
    # More episodes of the same settings only add shards.
    if settings.is_file():
        old = {**json.loads(settings.read_text()), "episodes": config.episodes}
        if old != json.loads(content):
            raise ConfigurationError(
                f"'{directory}' holds demonstrations of other settings: choose another directory"
            )
    settings.write_text(content)
    starts = range(config.first_seed, config.first_seed + config.episodes, config.shard_episodes)
    jobs = [(config, seed, directory / f"shard-{seed:07d}.npz") for seed in starts]
    missing = [job for job in jobs if not job[2].is_file()]
    done = len(jobs) - len(missing)
    yield done, len(jobs)
    # Spawned, not forked: an OpenGL context does not survive a fork.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap_unordered(_write_shard, missing):
            done += 1
            yield done, len(jobs)


def _write_shard(job: tuple[CollectConfig, int, Path]) -> None:
    config, first, file = job
    simulator = make_simulator(config.suite, config.image_size)
    try:
        last = min(first + config.shard_episodes, config.first_seed + config.episodes)
        episodes = [_episode(simulator, config, seed) for seed in range(first, last)]
    finally:
        simulator.close()
    samples = [sample for episode in episodes for sample in episode]
    tasks = [task.instruction for task in simulator.spec.tasks]
    entities = [*simulator.spec.colours, *(d.name for d in simulator.spec.destinations)]
    partial = file.with_suffix(".tmp.npz")
    np.savez(
        partial,
        instructions=np.array(tasks),
        entities=np.array(entities),
        attempted=last - first,
        succeeded=sum(bool(episode) for episode in episodes),
        **_columns(samples, config),
    )
    partial.rename(file)  # a shard is there whole or not at all


def _columns(samples: list[dict], config: CollectConfig) -> dict[str, np.ndarray]:
    """Samples as arrays; pictures as one byte string with offsets, labels with their sample."""
    coded = [image for sample in samples for image in sample["images"]]
    labels = [(i, *label) for i, sample in enumerate(samples) for label in sample["labels"]]
    columns = {
        name: np.array([sample[name] for sample in samples])
        for name in ("seed", "proprio", "positions", "pixels")
    }
    return columns | {
        "jpeg": np.frombuffer(b"".join(coded), np.uint8),
        "jpeg_offsets": np.cumsum([0, *map(len, coded)]),
        "label_sample": np.array([label[0] for label in labels]),
        "label_task": np.array([label[1] for label in labels]),
        "label_actions": np.array([label[2] for label in labels], np.float32).reshape(
            -1, config.horizon, 7
        ),
    }


def _episode(simulator, config: CollectConfig, seed: int) -> list[dict]:
    """Samples of one episode, or none if the expert failed under its disturbances."""
    rng = np.random.default_rng([seed, 7])
    simulator.reset(None, seed, render=False)
    start = np.array([*rng.uniform([-0.6, -0.6, -0.6], [0.6, 0.6, 0.2]), 0.0, 0.0, 0.0, -1.0])
    start[3:6] = rng.uniform(-0.1, 0.1, 3)
    for _ in range(int(rng.integers(0, config.random_start))):
        simulator.step(start)
    expert, samples = ScriptedExpert(), []
    drift, level = np.zeros(3), float(rng.choice(config.noise_levels))
    shove, shoving, offset, after = np.zeros(3), 0, int(rng.integers(config.every)), 0
    for step in range(simulator.max_steps + 20):
        if step % config.every == offset:
            samples.append(_sample(simulator, expert.phase, config, rng, seed))
        action = expert.act(simulator)
        drift = 0.8 * drift + 0.6 * rng.normal(0.0, level, 3)
        if not shoving and level > 0 and rng.random() < config.shove_probability:
            shoving, shove = int(rng.integers(3, 9)), rng.uniform(-1, 1, 3) * (0.7, 0.7, 0.4)
        if shoving:
            action[:3], shoving = shove, shoving - 1
        elif expert.phase.name not in ("grasp", "release"):
            action[:3] += drift
        after += simulator.step(action)
        if after > 4:  # a little of the state after success belongs to the data
            return samples
    return []


def _sample(simulator, phase: Phase, config: CollectConfig, rng, seed: int) -> dict:
    observation = simulator.observe()
    coded = []
    for image in observation.images.values():
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        coded.append(data.tobytes())
    positions = _entity_positions(simulator)
    return {
        "seed": seed,
        "images": coded,
        "proprio": observation.proprio,
        "positions": positions,
        "pixels": np.stack([simulator.project(positions, camera) for camera in CAMERAS]),
        "labels": _labels(simulator, phase, config, rng),
    }


def _entity_positions(simulator) -> np.ndarray:
    """[n_entities, 3] of every cube colour and destination; NaN where it is not on the table."""
    spec, current = simulator.spec, simulator.get_state()
    names = [*spec.colours, *(d.name for d in spec.destinations)]
    positions = np.full((len(names), 3), np.nan)
    for task in simulator.possible_tasks():
        simulator.set_task(task)
        scene = simulator.scene()
        positions[names.index(scene.task.colour)] = scene.cube_position
        positions[names.index(scene.task.destination)] = scene.destination
    simulator.set_task(current.task)
    return positions


def _labels(simulator, phase: Phase, config: CollectConfig, rng) -> list[tuple[int, np.ndarray]]:
    """(task, actions [horizon, 7]) of the running task and of some others in this state."""
    state = simulator.get_state()
    own = simulator.spec.tasks[state.task]
    others = []
    for index in simulator.possible_tasks():
        task = simulator.spec.tasks[index]
        if index == state.task or task.verb != own.verb:
            continue
        if phase.name in _BEFORE_GRASP:
            others.append((index, Phase()))
        elif phase.name in _IN_HAND and task.colour == own.colour:
            # The cube is in the hand: only another destination makes sense.
            others.append((index, Phase("carry") if phase.name == "carry" else phase))
    chosen = rng.permutation(len(others))[: config.relabels]
    labels = [(state.task, _rollout(simulator, phase, config.horizon))]
    simulator.set_state(state)
    for task, start in (others[i] for i in chosen):
        simulator.set_task(task)
        labels.append((task, _rollout(simulator, start, config.horizon)))
        simulator.set_state(state)
    return labels


def _rollout(simulator, phase: Phase, horizon: int) -> np.ndarray:
    """The expert's next actions, undisturbed; the gripper as 0 close, 1 open."""
    actions = np.zeros((horizon, 7), np.float32)
    for step in range(horizon):
        action, phase = expert_action(simulator.scene(), phase)
        simulator.step(action)
        actions[step] = action
        actions[step, 6] = (1.0 - action[6]) / 2.0
    return actions
