"""Streaming of safetensors shards into modules that were built on the meta device.

Tensors are copied one by one, and a shard is reopened every so often, so that the pages of its
memory map do not pile up: host memory stays near the size of the model itself.
"""
from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Iterator

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from specprune_ros.errors import CheckpointError
from specprune_ros.vla.openvla_oft.files import CheckpointFiles

_WINDOW_BYTES = 128 * 2**20  # mapped bytes before a shard is reopened


@dataclass(frozen=True)
class Source:
    """One tensor of the checkpoint and the parameters it fills.

    split: turns the tensor into one tensor per target.
    """

    name: str
    targets: tuple[str, ...]
    split: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = lambda tensor: (tensor,)


def load_weights(
    module: nn.Module,
    files: CheckpointFiles,
    sources: Iterable[Source],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Fill every parameter of ``module`` from the shards, in ``dtype`` on ``device``.

    Raises CheckpointError naming a tensor that is missing, broken, or of another shape.
    """
    by_name = {source.name: source for source in sources}
    by_shard: dict[Path, list[str]] = defaultdict(list)
    for name in by_name:
        if name not in files.tensors:
            raise CheckpointError(f"tensor '{name}' is missing from the shards of '{files.path}'")
        by_shard[files.tensors[name].shard].append(name)
    for shard, names in by_shard.items():
        for name, tensor in _stream(files, shard, names):
            source = by_name[name]
            for target, part in zip(source.targets, source.split(tensor)):
                assign(module, target, part.to(device=device, dtype=dtype, copy=True), name)
    unfilled = [name for name, p in module.named_parameters() if p.is_meta]
    if unfilled:
        raise CheckpointError(f"no tensor of the checkpoint fills '{unfilled[0]}'")


def _stream(
    files: CheckpointFiles, shard: Path, names: list[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    remaining = list(names)
    try:
        while remaining:
            mapped = 0
            with safe_open(shard, framework="pt", device="cpu") as opened:
                while remaining and mapped < _WINDOW_BYTES:
                    name = remaining.pop(0)
                    mapped += files.tensors[name].nbytes
                    yield name, opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint shard '{shard}' cannot be read ({error}): download it again"
        ) from None


def assign(module: nn.Module, target: str, tensor: torch.Tensor, source: str) -> None:
    """Put a tensor in place of a (meta) parameter of the same shape."""
    path, _, leaf = target.rpartition(".")
    parent = module.get_submodule(path)
    expected = parent._parameters[leaf].shape
    if tensor.shape != expected:
        raise CheckpointError(
            f"tensor '{source}' has shape {tuple(tensor.shape)}, the model expects "
            f"{tuple(expected)}: config.json and weights do not belong together"
        )
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"tensor '{source}' holds NaN or infinite values")
    parent._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def load_pickled_tensors(file: Path) -> dict[str, torch.Tensor]:
    """A flat name -> tensor dict of a ``.pt`` file, the ``module.`` prefix of DDP removed.

    Only tensors are unpickled (``weights_only=True``): a file with any other payload is refused.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise many kinds
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"'{file}' cannot be read as a file of tensors ({reason}): it is broken, or it holds "
            "code, which is never executed"
        ) from None
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()
    ):
        raise CheckpointError(f"'{file}' does not hold a flat dict of tensors")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}
