"""The thread that runs the policy, so that a query does not hold up what comes in meanwhile."""
from __future__ import annotations

import threading
from collections.abc import Callable

from .planner import Job


class InferenceThread:
    """One thread that takes jobs, one at a time, whenever there is one.

    lock: guards what ``next_job`` reads; notify it when something has changed. ``next_job`` is
    called with the lock held and must not block; ``run`` is called without it and must not raise.
    """

    def __init__(self, lock: threading.Condition, next_job: Callable[[], Job | None],
                 run: Callable[[Job], None]) -> None:
        self._lock = lock
        self._next_job = next_job
        self._run = run
        self._stopping = False
        # A daemon, so that a query that never returns cannot keep the process alive.
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Ask the thread to end after the running job; returns whether it did within seconds."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while (job := self._wait_for_job()) is not None:
            self._run(job)

    def _wait_for_job(self) -> Job | None:
        with self._lock:
            while not self._stopping:
                job = self._next_job()
                if job is not None:
                    return job
                self._lock.wait()
        return None
