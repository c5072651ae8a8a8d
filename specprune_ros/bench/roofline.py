"""What the device at hand could do at best: measured ceilings, and bounds on a query from them."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from specprune_ros.analysis.devices import Device, measure_cpu
from specprune_ros.runtime.accounting import Cost, QueryShape, total

_GEMM = 8192
_COPY = 2**30  # bytes, many times any cache
_REPEATS = 10


def ceilings(device: torch.device, dtype: torch.dtype) -> Device:
    """Peak arithmetic of matrix products of a type on random data, and bandwidth of a copy.

    On the CPU: of one thread. The copy counts bytes read and bytes written.
    """
    if device.type != "cuda":
        return measure_cpu(dtype)
    kind = str(dtype).removeprefix("torch.")
    return Device(
        torch.cuda.get_device_name(device), _peak(device, dtype), _bandwidth(device), "measured",
        f"{kind} GEMM of {_GEMM} on random data, copy of 1 GiB", dtype.itemsize,
    )


def _peak(device: torch.device, dtype: torch.dtype) -> float:
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(_GEMM, _GEMM, device=device, generator=generator).to(dtype) for _ in range(2)
    )
    out = torch.empty_like(a)
    return 2 * _GEMM**3 / _seconds(lambda: torch.mm(a, b, out=out))


def _bandwidth(device: torch.device) -> float:
    source = torch.randint(0, 256, (_COPY,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY / _seconds(lambda: target.copy_(source))


def _seconds(work: Callable[[], object]) -> float:
    """Median of a few runs, between events."""
    for _ in range(3):
        work()
    times = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(np.median(times))


def query_cost(
    shape: QueryShape, rows: Sequence[float], cameras: int, proprio: bool, actions: int
) -> tuple[list[Cost], Cost]:
    """Stages of a query one by one, and all of them; each decoder layer is a stage."""
    whole = [round(n) for n in rows]
    parts = dict(shape.cost(whole, whole, cameras, proprio, actions))
    del parts["decoder"]
    stages = [*parts.values(), *(shape.decoder.layer_cost(n, n) for n in whole)]
    return stages, total(stages)


def bound_ms(stages: Sequence[Cost], device: Device) -> float:
    """Lower bound: every stage as fast as arithmetic or memory allow, one after the other."""
    size = device.element_size
    return 1e3 * sum(device.seconds(stage.flops, stage.bytes(size)) for stage in stages)
