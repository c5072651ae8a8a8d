"""Starting from a trained checkpoint: at another resolution, or with more decoder layers."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import torch
import torch.nn.functional as F

from specprune_ros.errors import CheckpointError, ConfigurationError
from specprune_ros.training.network import TrainingNetwork
from specprune_ros.vla.openvla_oft.model import OpenVLAOFT, load_model

HEADS_FILE = "training_heads.pt"  # of the auxiliary losses; loading a policy does not read it
_LAYER = "decoder.layers."
# Layers 0 and 1 stay where they are: pruning looks at what the first two layers attend to.
_FIRST = 2
_WRITES = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


@dataclass(frozen=True)
class WarmStart:
    """A trained checkpoint to continue from; tokenizer and statistics come with it."""

    directory: Path
    model: OpenVLAOFT
    tokenizer_json: str
    statistics: dict[str, Any]
    card: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> WarmStart:
        """Raises CheckpointError."""
        checkpoint = load_model(directory, "cpu", "float32")
        if checkpoint.model.proprio_projector is None:
            raise CheckpointError(f"'{directory}' has no proprio projector to continue from")
        return cls(
            directory,
            checkpoint.model,
            (directory / "tokenizer.json").read_text(encoding="utf-8"),
            json.loads((directory / "dataset_statistics.json").read_text()),
            checkpoint.files.card,
        )

    def fill(self, network: TrainingNetwork) -> None:
        """Copy every weight. Raises ConfigurationError where the sizes do not allow it.

        Position tables are resampled to the new grid. Further decoder layers are put between the
        old ones behind the second; each begins as a copy of the one before it that adds nothing
        (its output matrices are zero), so that the network computes what it did.
        """
        old = dict(self.model.named_parameters())
        places = layer_places(len(self.model.decoder.layers), len(network.model.decoder.layers))
        with torch.no_grad():
            for name, parameter in network.model.named_parameters():
                source, adds_nothing = _source_name(name, places)
                if source not in old:
                    raise self._mismatch(name, "is not in it")
                value = old[source]
                if "pos_embed" in name:
                    value = _resampled(value, parameter.shape[1])
                if value.shape != parameter.shape:
                    shapes = f"{tuple(value.shape)} there, {tuple(parameter.shape)} here"
                    raise self._mismatch(name, shapes)
                parameter.copy_(torch.zeros_like(value) if adds_nothing else value)
        self._fill_heads(network)

    def _fill_heads(self, network: TrainingNetwork) -> None:
        file = self.directory / HEADS_FILE
        if not file.is_file():
            return  # they are single linear layers: learnt anew in a few hundred steps
        state = torch.load(file, map_location="cpu", weights_only=True)
        heads = auxiliary_heads(network)
        if {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in heads.items()}:
            network.load_state_dict(state, strict=False)

    def _mismatch(self, name: str, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"cannot start from '{self.directory}': tensor '{name}' {reason}; choose the sizes "
            "that it was trained with (only image size and decoder layers may differ)"
        )


def auxiliary_heads(network: TrainingNetwork) -> dict[str, torch.Tensor]:
    """Weights of the heads that the published format has no place for."""
    return {n: t for n, t in network.state_dict().items() if n.split(".")[0].endswith("_head")}


def layer_places(old: int, new: int) -> list[tuple[int, bool]]:
    """For each new layer: the old layer it copies, and whether it begins by adding nothing."""
    if new < old:
        raise ConfigurationError(f"cannot start {new} decoder layers from a checkpoint with {old}")
    if new == old or old <= _FIRST:
        return [(min(i, old - 1), i >= old) for i in range(new)]
    stride = (new - _FIRST) / (old - _FIRST)
    at = {_FIRST + int(i * stride): _FIRST + i for i in range(old - _FIRST)}
    at |= {i: i for i in range(_FIRST)}
    places, last = [], 0
    for index in range(new):
        last = at.get(index, last)
        places.append((last, index not in at))
    return places


def _source_name(name: str, places: list[tuple[int, bool]]) -> tuple[str, bool]:
    if not name.startswith(_LAYER):
        return name, False
    index, rest = name.removeprefix(_LAYER).split(".", 1)
    source, extra = places[int(index)]
    return f"{_LAYER}{source}.{rest}", extra and rest in _WRITES


def _resampled(table: torch.Tensor, count: int) -> torch.Tensor:
    """A position table [1, n, D] of a square grid at another size."""
    if table.shape[1] == count:
        return table
    old, new = round(table.shape[1] ** 0.5), round(count**0.5)
    grid = table.transpose(1, 2).unflatten(2, (old, old))
    grid = F.interpolate(grid, size=(new, new), mode="bilinear", align_corners=False)
    return grid.flatten(2).transpose(1, 2)
