"""Collected demonstrations as training batches: what the policy sees, and what it should do."""
from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import simplejpeg
import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.vla.openvla_oft.preprocess import prepare_image
from specprune_ros.vla.openvla_oft.statistics import Statistics, select_statistics

_KEPT_BYTES = 4 * 2**30
_CROP_SIDE = math.sqrt(0.9)  # the policy's centre crop
# A dimension that hardly moves would blow up noise when it is normalised to [-1, 1].
_LEAST_RANGE = np.array([0.2] * 3 + [0.1] * 3 + [1.0])
_LEAST_PROPRIO_RANGE = np.array([0.1] * 3 + [0.2] * 3 + [0.02] * 2)


@dataclass(frozen=True)
class Batch:
    """Tensors on the device of the training.

    images uint8 [B, n_cam, S, S, 3]; ids int64 [B, P] (BOS .. empty piece); proprio [B, 8] and
    actions [B, C, 7] normalised; pixels [B, n_cam, E, 2] of the entities in the policy's picture;
    positions [B, E, 3] in metres; target, destination: entity indices [B]; tool [B, 3] in metres.
    """

    images: torch.Tensor
    ids: torch.Tensor
    proprio: torch.Tensor
    actions: torch.Tensor
    pixels: torch.Tensor
    positions: torch.Tensor
    target: torch.Tensor
    destination: torch.Tensor
    tool: torch.Tensor


class Pictures:
    """The pictures of all samples as the policy sees them, uint8 [n_cam, S, S, 3] each.

    They are prepared once and kept beside the shards, mapped into memory, which processes share;
    where that would take more than ``_KEPT_BYTES`` they are decoded and prepared at every draw.
    """

    def __init__(self, shards: list[Path], loaded: list[dict[str, Any]], size: int) -> None:
        self._size = size
        counts = [len(s["seed"]) for s in loaded]
        self._first = np.cumsum([0, *counts])
        self.cameras = (len(loaded[0]["jpeg_offsets"]) - 1) // counts[0]
        self._offsets = [s["jpeg_offsets"] for s in loaded]
        self._coded = [s["jpeg"] for s in loaded]
        self._kept: list[np.ndarray] | None = None
        if len(self) * self.cameras * size * size * 3 <= _KEPT_BYTES:
            self._kept = [self._prepared(shard, i) for i, shard in enumerate(shards)]

    def __len__(self) -> int:
        return int(self._first[-1])

    def gather(self, samples: np.ndarray) -> np.ndarray:
        """uint8 [B, n_cam, S, S, 3] of these samples."""
        out = np.empty((len(samples), self.cameras, self._size, self._size, 3), np.uint8)
        for row, sample in enumerate(samples):
            shard = int(np.searchsorted(self._first, sample, side="right")) - 1
            index = int(sample - self._first[shard])
            if self._kept is not None:
                out[row] = self._kept[shard][index]
            else:
                out[row] = self._prepare(shard, index)
        return out

    def _prepare(self, shard: int, index: int) -> np.ndarray:
        first = index * self.cameras
        offsets = self._offsets[shard][first : first + self.cameras + 1]
        return np.stack(
            [
                prepare_image(
                    simplejpeg.decode_jpeg(self._coded[shard][a:b].tobytes(), fastdct=True),
                    self._size,
                    jpeg_roundtrip=False,  # they were stored as JPEG
                )
                for a, b in zip(offsets[:-1], offsets[1:])
            ]
        )

    def _prepared(self, file: Path, shard: int) -> np.ndarray:
        cache = file.with_name(f"{file.stem}-{self._size}.npy")
        if not cache.is_file():
            count = int(self._first[shard + 1] - self._first[shard])
            stacked = np.stack([self._prepare(shard, index) for index in range(count)])
            partial = cache.with_name(f"{cache.stem}.{os.getpid()}.tmp.npy")
            np.save(partial, stacked)
            partial.rename(cache)
        return np.load(cache, mmap_mode="r")


class Demonstrations:
    """All shards of some directories."""

    def __init__(self, directories: list[Path], image_size: int) -> None:
        shards = [f for d in directories for f in sorted(d.glob("shard-*.npz"))]
        shards = [f for f in shards if not f.name.endswith(".tmp.npz")]
        if not shards:
            raise ConfigurationError(
                f"no demonstrations in {', '.join(map(str, directories))}: run specprune collect"
            )
        self.image_size = image_size
        loaded = [dict(np.load(shard)) for shard in shards]
        # A shard whose every episode failed has no samples.
        self.shards = [shard for shard, s in zip(shards, loaded) if len(s["seed"])]
        loaded = [s for s in loaded if len(s["seed"])]
        if not loaded:
            raise ConfigurationError("every demonstration failed: collect more episodes")
        self.entities = _merged([list(s["entities"]) for s in loaded])
        self.instructions = _merged([list(s["instructions"]) for s in loaded])
        counts = [len(s["seed"]) for s in loaded]
        first = np.cumsum([0, *counts])
        self.seed = np.concatenate([s["seed"] for s in loaded])
        self.proprio = np.concatenate([s["proprio"] for s in loaded])
        self.positions = np.concatenate([self._spread(s, s["positions"], 1) for s in loaded])
        pixels = np.concatenate([self._spread(s, s["pixels"], 2) for s in loaded])
        self.pixels = _to_policy_view(pixels, image_size)
        self.label_sample = np.concatenate(
            [s["label_sample"] + first[i] for i, s in enumerate(loaded)]
        )
        self.label_task = np.concatenate(
            [
                np.array([self.instructions.index(t) for t in s["instructions"]])[s["label_task"]]
                for s in loaded
            ]
        )
        self.label_actions = np.concatenate([s["label_actions"] for s in loaded])
        self.episodes = sum(int(s["succeeded"]) for s in loaded)
        self.pictures = Pictures(self.shards, loaded, image_size)

    def _spread(self, shard: dict[str, Any], values: np.ndarray, axis: int) -> np.ndarray:
        """Values per entity of a shard at the places of the merged entities, NaN elsewhere."""
        shape = list(values.shape)
        shape[axis] = len(self.entities)
        full = np.full(shape, np.nan, np.float32)
        index = [self.entities.index(name) for name in shard["entities"]]
        full[(slice(None),) * axis + (index,)] = values
        return full

    def statistics_json(self, key: str) -> dict[str, Any]:
        """dataset_statistics.json: quantiles with a least range per dimension."""
        actions = self.label_actions.reshape(-1, 7).astype(np.float64)
        return {
            key: {
                "action": {
                    **_quantiles(actions, _LEAST_RANGE),
                    "mask": [True] * 6 + [False],
                },
                "proprio": _quantiles(self.proprio.astype(np.float64), _LEAST_PROPRIO_RANGE),
                "num_transitions": int(len(self.label_actions)),
                "num_trajectories": int(self.episodes),
            }
        }

    def split(self, every: int = 25) -> tuple[np.ndarray, np.ndarray]:
        """Indices of labels for training and validation, by episode: every 25th is held out.

        Raises ConfigurationError where nothing is left to train on.
        """
        held_out = (self.seed % every == 0)[self.label_sample]
        if held_out.all():
            raise ConfigurationError(
                f"the demonstrations hold {self.episodes} episode(s), all of them held out for "
                "validation: collect more"
            )
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)


class BatchMaker:
    """Draws batches; each has prompts of one length, since queries are never padded."""

    def __init__(
        self,
        data: Demonstrations,
        statistics: dict[str, Any],
        prompts: dict[str, tuple[int, ...]],
        device: torch.device,
    ) -> None:
        self.data, self.device = data, device
        scale: Statistics = select_statistics(statistics, None, 7)
        actions = data.label_actions.astype(np.float64)
        bounds = scale.action
        normalised = 2 * (actions - bounds.low) / (bounds.high - bounds.low + 1e-8) - 1
        actions = np.where(bounds.mask, normalised, actions).astype(np.float32)
        proprio = np.stack([scale.normalize_proprio(p) for p in data.proprio]).astype(np.float32)
        self._actions = torch.from_numpy(actions).to(device)
        self._proprio = torch.from_numpy(proprio).to(device)
        # Pictures stay uint8; on a GPU they all live there.
        self._images: torch.Tensor | None = None
        if device.type == "cuda":
            self._images = self._all_pictures()
        self._ids = [torch.tensor(prompts[text], device=device) for text in data.instructions]
        self._length = np.array([len(ids) for ids in self._ids])[data.label_task]
        self._pixels = torch.from_numpy(data.pixels).to(device)
        self._positions = torch.from_numpy(data.positions).to(device)
        self._tool = torch.from_numpy(data.proprio[:, :3].astype(np.float32)).to(device)
        names = [_entities_of(text, data.entities) for text in data.instructions]
        self._entity = torch.tensor(names, device=device)  # [tasks, 2]

    def _all_pictures(self) -> torch.Tensor:
        pictures = self.data.pictures
        every = np.arange(len(pictures))
        parts = [pictures.gather(part) for part in np.array_split(every, len(every) // 256 + 1)]
        return torch.cat([torch.from_numpy(part).to(self.device) for part in parts])

    def _pictures_of(self, samples: np.ndarray) -> torch.Tensor:
        if self._images is not None:
            return self._images[torch.from_numpy(samples).to(self.device)]
        return torch.from_numpy(self.data.pictures.gather(samples))

    def make(self, labels: np.ndarray) -> Batch:
        """The batch of these label indices; their prompts must have one length."""
        task = self.data.label_task[labels]
        samples = self.data.label_sample[labels]
        sample = torch.from_numpy(samples).to(self.device)
        entity = self._entity[torch.from_numpy(task).to(self.device)]
        return Batch(
            images=self._pictures_of(samples),
            ids=torch.stack([self._ids[t] for t in task]),
            proprio=self._proprio[sample],
            actions=self._actions[torch.from_numpy(labels).to(self.device)],
            pixels=self._pixels[sample],
            positions=self._positions[sample],
            target=entity[:, 0],
            destination=entity[:, 1],
            tool=self._tool[sample],
        )

    def draw_length(self, pool: np.ndarray, rng: np.random.Generator) -> int:
        """Prompt length of a random label of the pool."""
        return int(self._length[rng.choice(pool)])

    def draw(self, pool: np.ndarray, size: int, rng: np.random.Generator, length: int) -> Batch:
        """A random batch, with prompts of this length, from a pool of label indices."""
        return self.make(rng.choice(pool[self._length[pool] == length], size))

    def sweep(self, pool: np.ndarray, size: int) -> Iterator[Batch]:
        """Every label of a pool once, in order."""
        for length in np.unique(self._length[pool]):
            same = pool[self._length[pool] == length]
            for start in range(0, len(same), size):
                yield self.make(same[start : start + size])


def _entities_of(instruction: str, entities: list[str]) -> tuple[int, int]:
    """Cube colour and destination that an instruction names (first and last mention)."""
    words = instruction.replace("cube", "").split()
    named = [entities.index(word) for word in words if word in entities]
    return named[0], named[-1]


def _merged(lists: list[list[str]]) -> list[str]:
    return [str(name) for name in dict.fromkeys(name for names in lists for name in names)]


def _to_policy_view(pixels: np.ndarray, size: int, source: int = 256) -> np.ndarray:
    """Coordinates in the camera's picture -> in the resized and centre-cropped one."""
    scaled = pixels * (size / source)
    margin = (1 - _CROP_SIDE) / 2 * size
    return ((scaled - margin) / _CROP_SIDE).astype(np.float32)


def _quantiles(values: np.ndarray, least: np.ndarray) -> dict[str, list[float]]:
    low, high = np.quantile(values, 0.01, axis=0), np.quantile(values, 0.99, axis=0)
    middle, half = (low + high) / 2, np.maximum(high - low, least) / 2
    columns = {
        "mean": values.mean(0),
        "std": values.std(0),
        "min": values.min(0),
        "max": values.max(0),
        "q01": middle - half,
        "q99": middle + half,
    }
    return {name: [round(float(v), 6) for v in column] for name, column in columns.items()}
