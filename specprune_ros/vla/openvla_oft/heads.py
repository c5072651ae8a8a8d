"""The L1 action head and the proprio projector."""
from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from specprune_ros.errors import CheckpointError
from specprune_ros.vla.openvla_oft.weights import assign, load_pickled_tensors


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.ffn(x)


class _MlpResNet(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, hidden)
        self.mlp_resnet_blocks = nn.ModuleList(_ResidualBlock(hidden) for _ in range(blocks))
        self.layer_norm2 = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, outputs)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class L1ActionHead(nn.Module):
    """[C*A, D] read-out states -> [C, A] normalised actions (no squashing: may exceed +-1)."""

    def __init__(self, hidden: int, head_width: int, action_dim: int, blocks: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.model = _MlpResNet(action_dim * hidden, head_width, action_dim, blocks)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.model(states.reshape(-1, self.action_dim * states.shape[-1]))


class ProprioProjector(nn.Module):
    """[P] normalised proprio -> [D], one token."""

    def __init__(self, proprio_dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(proprio_dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.act = nn.GELU()

    def forward(self, proprio: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(proprio)))


def load_action_head(
    file: Path, hidden: int, device: torch.device, dtype: torch.dtype
) -> L1ActionHead:
    """Build the head from the shapes in the file. Raises CheckpointError."""
    tensors = load_pickled_tensors(file)
    if any(name.startswith("noise_predictor.") for name in tensors):
        raise CheckpointError(f"'{file}' is a diffusion head, which is not supported: use L1")
    inputs = _shape(tensors, "model.layer_norm1.weight", file, dimensions=1)[0]
    outputs, head_width = _shape(tensors, "model.fc2.weight", file, dimensions=2)
    if inputs != outputs * hidden:
        raise CheckpointError(
            f"'{file}': tensor 'model.layer_norm1.weight' has {inputs} values, expected action "
            f"dimension {outputs} x hidden size {hidden} = {outputs * hidden}: head and language "
            "model do not belong together"
        )
    blocks = len({n.split(".")[2] for n in tensors if n.startswith("model.mlp_resnet_blocks.")})
    with torch.device("meta"):
        head = L1ActionHead(hidden, head_width, outputs, blocks)
    _fill(head, tensors, file, device, dtype)
    return head


def load_proprio_projector(
    file: Path, hidden: int, device: torch.device, dtype: torch.dtype
) -> ProprioProjector:
    """Build the projector from the shapes in the file. Raises CheckpointError."""
    tensors = load_pickled_tensors(file)
    width, proprio_dim = _shape(tensors, "fc1.weight", file, dimensions=2)
    if width != hidden:
        raise CheckpointError(
            f"'{file}': tensor 'fc1.weight' gives {width} features, the language model has "
            f"{hidden}: projector and language model do not belong together"
        )
    with torch.device("meta"):
        projector = ProprioProjector(proprio_dim, hidden)
    _fill(projector, tensors, file, device, dtype)
    return projector


def _shape(
    tensors: dict[str, torch.Tensor], name: str, file: Path, dimensions: int
) -> torch.Size:
    if name not in tensors:
        present = ", ".join(sorted(tensors)[:4])
        raise CheckpointError(f"'{file}' has no tensor '{name}' (it has: {present} ...)")
    shape = tensors[name].shape
    if len(shape) != dimensions:
        raise CheckpointError(
            f"'{file}': tensor '{name}' has shape {tuple(shape)}, expected {dimensions} dimensions"
        )
    return shape


def _fill(
    module: nn.Module,
    tensors: dict[str, torch.Tensor],
    file: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    names = [name for name, _ in module.named_parameters()]
    missing = sorted(set(names) - set(tensors))
    extra = sorted(set(tensors) - set(names))
    if missing or extra:
        raise CheckpointError(
            f"'{file}' does not have the published tensors (missing {missing[:3]}, "
            f"unexpected {extra[:3]})"
        )
    for name in names:
        assign(module, name, tensors[name].to(device, dtype), f"{file.name}: {name}")
