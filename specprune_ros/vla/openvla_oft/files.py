"""The files of a checkpoint directory: what is there, what it says, and clear errors if not.

Format: the published OpenVLA-OFT directories (merged safetensors shards, heads as ``.pt``). Remote
code in the directory (``*.py``) is never read.
"""
from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

from specprune_ros.errors import CheckpointError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_MAX_HEADER = 100_000_000  # limit of the safetensors format


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: shard file, shape, safetensors dtype name, bytes."""

    shard: Path
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclass(frozen=True)
class CheckpointFiles:
    """Parsed JSON files and the table of tensors of one directory."""

    path: Path
    config: Mapping[str, Any]
    statistics: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    heads: Mapping[str, Path] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)  # specprune.json, our own extra file

    def head(self, component: str) -> Path | None:
        """The ``.pt`` file of a component (``action_head``, ``proprio_projector``) or None."""
        return self.heads.get(component)


_COMPONENTS = ("action_head", "proprio_projector", "noisy_action_projector", "vision_backbone")


def read_checkpoint_files(directory: str | Path) -> CheckpointFiles:
    """Read everything but the weights. Raises CheckpointError naming the file and the remedy."""
    if not isinstance(directory, (str, Path)) or not str(directory):
        raise CheckpointError(f"checkpoint_dir is {directory!r}, expected a path")
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise CheckpointError(
            f"checkpoint directory '{path}' does not exist: give the folder that holds config.json "
            "and the *.safetensors files"
        )
    config = _read_json(path / "config.json")
    statistics_file = path / "dataset_statistics.json"
    if statistics_file.is_file():
        statistics = _read_json(statistics_file)
    elif "norm_stats" in config:
        # Checkpoints that are not fine-tuned carry their statistics in the config.
        statistics = config["norm_stats"]
    else:
        raise CheckpointError(
            f"'{path}' has no dataset_statistics.json: copy it from the fine-tuning run, actions "
            "cannot be un-normalised without it"
        )
    return CheckpointFiles(
        path=path,
        config=config,
        statistics=statistics,
        preprocessor=_read_json(path / "preprocessor_config.json"),
        tensors=_tensor_table(path),
        heads=_find_heads(path),
        card=_read_json(path / "specprune.json") if (path / "specprune.json").is_file() else {},
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint file '{file}' is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint file '{file}' cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint file '{file}' does not hold a JSON object")
    return content


def _tensor_table(path: Path) -> dict[str, TensorEntry]:
    index_file = path / _INDEX
    if index_file.is_file():
        weight_map = _read_json(index_file).get("weight_map")
        valid = isinstance(weight_map, dict) and all(
            isinstance(shard, str) for shard in weight_map.values()
        )
        if not valid or not weight_map:
            raise CheckpointError(f"'{index_file}' has no weight_map of tensor names to files")
    elif (path / _SINGLE).is_file():
        weight_map = dict.fromkeys(_read_header(path / _SINGLE), _SINGLE)
    else:
        remedy = (
            "merge lora_adapter/ into the base model first"
            if (path / "lora_adapter").is_dir()
            else "download the missing shards"
        )
        raise CheckpointError(f"'{path}' has neither {_INDEX} nor {_SINGLE}: {remedy}")
    headers: dict[str, dict[str, Any]] = {}
    for shard in sorted(set(weight_map.values())):
        if not (path / shard).is_file():
            raise CheckpointError(
                f"checkpoint shard '{path / shard}', named in {_INDEX}, is missing: download it"
            )
        headers[shard] = _read_header(path / shard)
    table = {}
    for name, shard in weight_map.items():
        entry = headers[shard].get(name)
        if entry is None:
            raise CheckpointError(f"tensor '{name}' is not in shard '{shard}' as {_INDEX} says")
        begin, end = entry["data_offsets"]
        table[name] = TensorEntry(path / shard, tuple(entry["shape"]), entry["dtype"], end - begin)
    return table


def _read_header(file: Path) -> dict[str, Any]:
    """Header of a safetensors file, checked against the length of the file."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError(f"header of {length} bytes in a file of {size}")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        expected = 8 + length + max((e["data_offsets"][1] for e in header.values()), default=0)
        for name, entry in header.items():
            if not isinstance(entry["shape"], list) or not isinstance(entry["dtype"], str):
                raise ValueError(f"entry of '{name}'")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(
            f"checkpoint shard '{file}' is not a safetensors file ({error}): download it again"
        ) from None
    if size < expected:
        raise CheckpointError(
            f"checkpoint shard '{file}' is truncated ({size} of {expected} bytes): "
            "download it again"
        )
    return header


def _find_heads(path: Path) -> dict[str, Path]:
    """The one file per component whose name has the component and ``checkpoint`` in it."""
    heads = {}
    for component in _COMPONENTS:
        found = sorted(
            f for f in path.glob("*.pt") if component in f.name and "checkpoint" in f.name
        )
        if component == "action_head":  # "noisy_action_projector" does not contain it
            found = [f for f in found if "noisy" not in f.name]
        if len(found) > 1:
            raise CheckpointError(
                f"'{path}' has {len(found)} files for {component} "
                f"({', '.join(f.name for f in found)}): keep one"
            )
        if found:
            heads[component] = found[0]
    return heads
