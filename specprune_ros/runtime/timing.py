"""Wall time of the stages of a query."""
from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Callable, Iterator


class StageClock:
    """Collects milliseconds per stage, in order of first execution.

    synchronize: called at both ends of a stage, so that work queued on an accelerator counts
    where it belongs; None on the CPU.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self._synchronize = synchronize or (lambda: None)
        self.stage_ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._synchronize()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._synchronize()
            elapsed = (time.perf_counter() - start) * 1e3
            self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + elapsed
