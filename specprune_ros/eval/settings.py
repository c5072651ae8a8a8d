"""Settings that every episode of an evaluation shares, and what makes two of them comparable."""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import specprune_ros
from specprune_ros.errors import CheckpointError, ConfigurationError
from specprune_ros.sim import Simulator
from specprune_ros.training.collect import TRAINING_SEEDS

#: Initial states for choosing settings (budgets here): like training's, never for results.
TUNING_SEEDS = range(2_000_000, 3_000_000)

_WHOLE_FILE = 64 * 2**20  # bytes; of larger files only both ends are read
# What decides the course of an episode.
_CODE = ("pruning", "vla", "runtime", "robot", "sim", "policy.py", "tokens.py", "types.py",
         "analysis/episodes.py", "eval/worlds.py", "eval/methods.py", "eval/episode.py",
         "eval/record.py")
# What decides it through ROS, too.
_ROS_CODE = ("ros", "through_ros", "bringup.py")
_LIBRARIES = ("torch", "numpy", "mujoco")


@dataclass(frozen=True)
class EvalSettings:
    """suite, checkpoint and how they are run; small and picklable, for workers elsewhere.

    seed: initial state of episode 0; episode i starts from seed + i. replan: actions played of
    each chunk (None: all). render_size: edge of the simulator's pictures, px. max_steps: control
    periods per episode (None: the suite's). action_distance: ask a dense policy, too, at each
    query. through_ros: played by the nodes. simulator: its versions, where it is none of this
    environment's libraries. checkpoint_hash, code_hash, simulator: a worker refuses to work with
    others.
    """

    suite: str
    seed: int
    checkpoint: str
    checkpoint_hash: str
    code_hash: str
    device: str = "cpu"
    dtype: str = "float32"
    unnorm_key: str | None = None
    chunk_length: int = 8
    replan: int | None = None
    render_size: int = 256
    max_steps: int | None = None
    action_distance: bool = False
    threads: int = 1
    simulator: str = ""
    through_ros: bool = False

    def __post_init__(self) -> None:
        for name in ("replan", "max_steps", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} is {value}; it must be >= 1")

    @classmethod
    def of(
        cls, suite: str, seed: int, checkpoint: Path, through_ros: bool = False, **others: Any
    ) -> EvalSettings:
        """Settings for the checkpoint and the code that are here."""
        path = Path(checkpoint).expanduser().resolve()
        return cls(suite, seed, str(path), checkpoint_hash(path), code_hash(through_ros),
                   through_ros=through_ros, **others)

    def identity(self) -> dict[str, Any]:
        """What must be equal for episodes to belong to one evaluation."""
        values = asdict(self)
        del values["checkpoint"]  # the place; the hash says which one
        return values

    @property
    def hash(self) -> str:
        """Of :meth:`identity`, 16 hexadecimal digits."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def verify(self) -> None:
        """Raise ConfigurationError unless this machine has the same checkpoint and code."""
        here = {
            "checkpoint": (checkpoint_hash(Path(self.checkpoint)), self.checkpoint_hash),
            f"code (specprune_ros, {', '.join(_LIBRARIES)})": (
                code_hash(self.through_ros), self.code_hash),
        }
        for what, (found, wanted) in here.items():
            if found != wanted:
                raise ConfigurationError(
                    f"this worker has another {what} than the evaluation ({found}, not {wanted}): "
                    "give every machine the same"
                )


    def verify_simulator(self, simulator: Simulator) -> None:
        """Raise ConfigurationError unless this is the simulator of the evaluation."""
        if (found := simulator_versions(simulator)) != self.simulator:
            raise ConfigurationError(
                f"this worker has another simulator than the evaluation ({found}, not "
                f"{self.simulator}): give every machine the same"
            )


def simulator_versions(simulator: Simulator) -> str:
    """Versions of a simulator that comes from elsewhere; empty for the embedded ones."""
    return getattr(simulator, "versions", "")


def check_seeds(first: int, count: int, what: str = "evaluation") -> None:
    """Raise ConfigurationError if a seed is negative or one that training draws from."""
    if count < 1:
        raise ConfigurationError(f"{what}: {count} episodes; there must be at least one")
    last = first + count - 1
    if first < 0:
        raise ConfigurationError(f"{what}: --seed is {first}; seeds are 0 or greater")
    if first < TRAINING_SEEDS.stop and last >= TRAINING_SEEDS.start:
        raise ConfigurationError(
            f"{what}: the initial states {first} to {last} are training seeds "
            f"({TRAINING_SEEDS.start} to {TRAINING_SEEDS.stop - 1}): choose a --seed outside"
        )


def in_tuning_range(first: int, count: int) -> bool:
    """Whether some of these initial states are for tuning."""
    return first < TUNING_SEEDS.stop and first + count > TUNING_SEEDS.start


def checkpoint_hash(directory: Path) -> str:
    """Of the names, sizes and contents of a checkpoint's files, 16 hexadecimal digits.

    Of files over 64 MiB only the first and the last 8 MiB are read; the model card (README.md)
    decides nothing and is left out. Raises CheckpointError.
    """
    if not directory.is_dir():
        raise CheckpointError(f"'{directory}' is no checkpoint directory")
    digest = hashlib.sha256()
    files = (path for path in directory.rglob("*") if path.is_file())
    for path in sorted(path for path in files if path.name != "README.md"):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(directory)}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE:
                digest.update(file.read())
            else:
                digest.update(file.read(8 * 2**20))
                file.seek(-8 * 2**20, 2)
                digest.update(file.read())
    return digest.hexdigest()[:16]


@cache
def code_hash(through_ros: bool = False) -> str:
    """Of the code that decides the course of an episode, and of the versions of the libraries that
    compute it; 16 hexadecimal digits. Files that change later are not what this process runs."""
    root, digest = Path(specprune_ros.__file__).parent, hashlib.sha256()
    digest.update("".join(f"{name} {version(name)}\n" for name in _LIBRARIES).encode())
    for name in (*_CODE, *(_ROS_CODE if through_ros else ())):
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
