"""Processes that train one network: each has a part of every batch, gradients are averaged."""
from __future__ import annotations

import socket
from typing import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

_LOCAL = "127.0.0.1"


def run_processes(count: int, work: Callable[..., None], report: Callable[..., None]) -> None:
    """``work(rank, report)`` in each of ``count`` processes (rank 0 is this one), in one group.

    ``report`` is rank 0's; the others report nothing.

    The group talks over the loopback interface. An error in any process ends all: raises
    RuntimeError, or what rank 0 raised.
    """
    with socket.socket() as free:
        free.bind((_LOCAL, 0))
        port = free.getsockname()[1]
    others = multiprocessing.spawn(
        _other, args=(count, port, work), nprocs=count - 1, join=False
    )
    try:
        _join(0, count, port)
        work(0, report)
        while not others.join():
            pass
    finally:
        for process in others.processes:
            if process.is_alive():
                process.terminate()
        dist.destroy_process_group()


def _other(index: int, count: int, port: int, work: Callable[..., None]) -> None:
    _join(index + 1, count, port)
    try:
        work(index + 1, _no_report)
    finally:
        dist.destroy_process_group()


def _no_report(progress: object) -> None:
    pass


def _join(rank: int, count: int, port: int) -> None:
    dist.init_process_group(
        "gloo", init_method=f"tcp://{_LOCAL}:{port}", rank=rank, world_size=count
    )


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Mean over the processes of the group, in place; nothing where there is no group."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts):
        gradient.copy_(part.view_as(gradient))


def agree(value: float) -> float:
    """Rank 0's value in every process."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared)
