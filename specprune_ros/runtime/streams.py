"""A second stream beside the one that the network runs on."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SideStream:
    """Runs work on a CUDA stream of its own; inside a capture it becomes a branch of the graph.

    What the main stream has queued by then is seen by the side, and after :meth:`wait` the other
    way round. The allocator does not know which stream still reads a tensor, so those of the main
    stream that the side reads are kept until the main stream waits. What the side makes must be
    kept by whoever uses it on the main stream, until that is queued.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._held: list[torch.Tensor] = []
        self._pending = False

    @contextmanager
    def __call__(self, *used: torch.Tensor) -> Iterator[None]:
        """Context in which work is queued on the side; ``used``: what it reads of the main one."""
        self._held.extend(used)
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        self._pending = True
        with torch.cuda.stream(self._stream):
            yield

    def wait(self) -> None:
        """What the main stream queues from now on sees the side's results."""
        if self._pending:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
            self._pending = False
            self._held.clear()
