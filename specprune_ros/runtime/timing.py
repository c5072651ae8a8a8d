"""Time of the stages of a query."""
from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Callable, Iterator


class StageClock:
    """Collects milliseconds per stage, in order of first execution: elapsed, and CPU time.

    synchronize: called at both ends of a stage, so that work queued on an accelerator counts
    where it belongs; None on the CPU. CPU time is that of the process, all threads together.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self._synchronize = synchronize or (lambda: None)
        self.stage_ms: dict[str, float] = {}
        self.cpu_ms: dict[str, float] = {}
        self.device_ms: float | None = None  # between the first and the last work on a device

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
