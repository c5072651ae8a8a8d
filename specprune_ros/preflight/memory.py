"""Whether memory suffices for a checkpoint: sizes of its tensors against what is free."""
from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ConfigurationError
from ..vla.openvla_oft.config import ModelConfig
from ..vla.openvla_oft.files import CheckpointFiles
from .findings import Finding, fail, ok, warn

_TIGHT = 0.8  # of what is free
_TEXT_TOKENS = 128
_GIB = 2**30
_LIBRARIES = 0.6 * _GIB  # of a process with torch and transformers (measured 0.5 GiB)
_CUDA = 0.6 * _GIB  # of a CUDA context with its libraries
_ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))


@dataclass(frozen=True)
class Need:
    """Bytes of weights, and of activations of a dense query."""

    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations


def memory_need(files: CheckpointFiles, config: ModelConfig, dtype: torch.dtype, cameras: int,
                action_tokens: int = 56) -> Need:
    """What a checkpoint takes in ``dtype``: an upper estimate, as some tensors are not loaded."""
    size = dtype.itemsize
    values = sum(math.prod(entry.shape) for entry in files.tensors.values())
    # The heads are pickled files, as large as their tensors; published in bfloat16.
    heads = sum(path.stat().st_size for path in files.heads.values()) // 2
    llama, tower = config.llama, max(config.dino.width, config.siglip.width)
    rows = cameras * config.patches_per_camera + _TEXT_TOKENS + action_tokens
    decoder = rows * (8 * llama.hidden_size + 3 * llama.intermediate_size)
    vision = cameras * (config.patches_per_camera + 8) * 12 * tower
    return Need((values + heads) * size, max(decoder, vision) * size)


def check_memory(need: Need, device: str) -> Finding:
    """What is needed against what is free, on the device that computes."""
    name = "memory"
    if device.partition(":")[0] == "cuda":
        if not torch.cuda.is_available():
            return fail(name, f"{device} was asked for, but there is no CUDA device", "See gpu")
        free, total = torch.cuda.mem_get_info(torch.device(device))
        wanted, where = need.total + _CUDA, f"on {torch.cuda.get_device_name(device)}"
    else:
        free, total = host_memory()
        wanted, where = need.total + _LIBRARIES, "on this machine"
    text = (f"about {_gib(wanted)} needed ({_gib(need.weights)} of them weights), "
            f"{_gib(free)} of {_gib(total)} free {where}")
    if wanted > free:
        return fail(name, text, "End other processes, or use dtype bfloat16 or a larger device")
    if wanted > _TIGHT * free:
        return warn(name, text, "End other processes; a little more, and the policy is killed")
    return ok(name, text)


def host_memory(meminfo: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """Bytes that a process can get, and in all; a limit of the control group counts.

    Raises:
        ConfigurationError: this system does not tell.
    """
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free, total = (1024 * int(fields[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError) as error:
        raise ConfigurationError(f"{meminfo} does not tell how much memory is free: {error!r}"
                                 ) from error
    limit, used = _control_group()
    if limit is not None and limit < total:
        return min(free, max(limit - used, 0)), limit
    return free, total


def _control_group() -> tuple[int | None, int]:
    """Limit and use of the control group (version 2, or 1); None without a limit."""
    names = (("memory.max", "memory.current"),
             ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    for root, (limit, current) in zip(_ROOTS, names):
        try:
            text = (root / limit).read_text().strip()
            return (None, 0) if text == "max" else (int(text), int((root / current).read_text()))
        except (OSError, ValueError):
            continue
    return None, 0


def _gib(count: float) -> str:
    return f"{count / _GIB:.2f} GiB"
