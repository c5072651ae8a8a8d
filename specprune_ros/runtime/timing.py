"""Time of the stages of a query."""
from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Iterator

import torch


class StageClock:
    """Collects milliseconds per stage, in order of first execution: elapsed, and CPU time.

    device: where the work is. wait: wait for it at both ends of a stage, so that work queued on an
    accelerator counts where it belongs. CPU time is that of the process, all threads together.
    """

    def __init__(self, device: torch.device | None = None, wait: bool = True) -> None:
        self._cuda = device is not None and device.type == "cuda"
        self._device, self._wait = device, wait and self._cuda
        self._events: list[torch.cuda.Event] = []
        self.stage_ms: dict[str, float] = {}
        self.cpu_ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._synchronize()
        start, worked = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._synchronize()
            elapsed, worked = time.perf_counter() - start, time.process_time() - worked
            self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + elapsed * 1e3
            self.cpu_ms[stage] = self.cpu_ms.get(stage, 0.0) + worked * 1e3

    def _synchronize(self) -> None:
        if self._wait:
            torch.cuda.synchronize(self._device)

    def begin_device_work(self) -> None:
        """The first work of a query is about to be queued."""
        self._mark()

    def end_device_work(self) -> None:
        """The last work of a query has been queued."""
        self._mark()

    def _mark(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)

    @property
    def device_ms(self) -> float | None:
        """Milliseconds between the two marks on a CUDA device, else None. Waits for the second."""
        if len(self._events) < 2:
            return None
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1])
