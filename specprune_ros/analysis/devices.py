"""Peak arithmetic and memory bandwidth of devices: named ones, or this CPU by a short benchmark."""
from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable

import torch

from specprune_ros.errors import ConfigurationError

THIS_CPU = "cpu"
_GEMM = 1024  # 4 MB per float32 matrix: in cache, as the blocks of a good GEMM are
_COPY = 32 * 2**20  # elements: 128 MB, beyond any cache
_REPEATS = 5


@dataclass(frozen=True)
class Device:
    """peak in FLOP/s and bandwidth in bytes/s for elements of ``element_size`` bytes.

    kind: ``datasheet``, ``measured`` or ``reported`` (measured by others); source: by whom, how.
    """

    name: str
    peak: float
    bandwidth: float
    kind: str
    source: str
    element_size: int = 2

    @property
    def ridge(self) -> float:
        """FLOPs per byte above which arithmetic is the limit."""
        return self.peak / self.bandwidth

    def seconds(self, flops: float, moved: float) -> float:
        """Lower bound on the time of a stage that moves so many bytes."""
        return max(flops / self.peak, moved / self.bandwidth)


# bfloat16 without sparsity, accumulation in float32.
_DEVICES = (
    Device("H200", 790e12, 4.3e12, "measured", "bf16 GEMM on random data, device-to-device copy"),
    Device("H200-datasheet", 989e12, 4.8e12, "datasheet", "NVIDIA H200 SXM"),
    Device("A800", 312e12, 2.039e12, "datasheet", "NVIDIA A800 80GB SXM"),
    Device("RTX3090", 71e12, 0.936e12, "datasheet", "NVIDIA GA102 whitepaper"),
    Device("Orin", 29.9e12, 0.173e12, "reported", "FlashRT documentation, Jetson AGX Orin"),
    Device("Thor", 110e12, 0.243e12, "reported", "FlashRT documentation, Jetson AGX Thor"),
    Device("Thor-datasheet", 258e12, 0.273e12, "datasheet", "NVIDIA Jetson AGX Thor"),
)
DEVICES: dict[str, Device] = {device.name: device for device in _DEVICES}


def find_devices(names: list[str]) -> list[Device]:
    """Devices by name; ``cpu`` measures this machine. Raises ConfigurationError."""
    unknown = [name for name in names if name not in DEVICES and name != THIS_CPU]
    if unknown:
        raise ConfigurationError(
            f"unknown device {', '.join(unknown)}; known: {', '.join(DEVICES)}, {THIS_CPU}"
        )
    if THIS_CPU in names and len(names) > 1:
        raise ConfigurationError(
            f"'{THIS_CPU}' is measured in float32, the named devices stand for bfloat16: ask for "
            "it alone"
        )
    return [measure_cpu() if name == THIS_CPU else DEVICES[name] for name in names]


def measure_cpu(dtype: torch.dtype = torch.float32) -> Device:
    """Peak and bandwidth of one thread of this CPU for a type, the best of a few runs.

    CPU time, not wall time: a busy machine takes the core away, but not the result.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(_GEMM, _GEMM, generator=generator).to(dtype)
    b = torch.rand(_GEMM, _GEMM, generator=generator).to(dtype)
    source, target = torch.ones(_COPY), torch.empty(_COPY)
    peak = 2 * _GEMM**3 / _best(lambda: torch.mm(a, b))
    bandwidth = 2 * source.nbytes / _best(lambda: target.copy_(source))
    name = str(dtype).removeprefix("torch.")
    return Device(THIS_CPU, peak, bandwidth, "measured", f"one thread, {name}: GEMM of {_GEMM}, "
                  f"copy of {source.nbytes // 2**20} MB", dtype.itemsize)


def _best(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(_REPEATS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)
