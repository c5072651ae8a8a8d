"""Where episodes are played: in this process, in processes of this machine, on a Ray cluster."""
from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

from specprune_ros.errors import ConfigurationError, SpecpruneError
from specprune_ros.eval.episode import Job, close_worker, run_job
from specprune_ros.eval.record import Record
from specprune_ros.eval.settings import EvalSettings


class Engine(Protocol):
    """Plays jobs; results are the same wherever that is. ``slots``: at most so many at once."""

    slots: int

    def submit(self, job: Job) -> Any:
        """Start a job; returns its handle."""

    def finished(self, handles: Sequence[Any]) -> tuple[Any, Record]:
        """Wait for any of these jobs. Raises what the job raised."""

    def close(self) -> None:
        """Stop. Jobs that are under way are lost."""


class InProcess:
    """One after the other, here."""

    slots = 1

    def __init__(self, settings: EvalSettings) -> None:
        self._settings = settings

    def submit(self, job: Job) -> Job:
        return job

    def finished(self, handles: Sequence[Job]) -> tuple[Job, Record]:
        return handles[0], run_job(self._settings, handles[0])

    def close(self) -> None:
        close_worker()


class Processes:
    """Processes of this machine. They share its cores, so latencies rise with their number."""

    def __init__(self, settings: EvalSettings, workers: int) -> None:
        self.slots = workers
        self._settings = settings
        # Spawned, not forked: neither threads nor an OpenGL context survive a fork.
        self._pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_ignore_interrupt
        )

    def submit(self, job: Job) -> Future:
        with _told_if_broken():
            return self._pool.submit(run_job, self._settings, job)

    def finished(self, handles: Sequence[Future]) -> tuple[Future, Record]:
        done = wait(handles, return_when=FIRST_COMPLETED).done
        handle = next(h for h in handles if h in done)
        with _told_if_broken():
            return handle, handle.result()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _told_if_broken() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise SpecpruneError(
            "a worker process died (out of memory?): the episodes finished so far are kept; "
            "continue with --resume, if need be with fewer --workers"
        ) from None


def _ignore_interrupt() -> None:
    """Ctrl-C goes to every process of a terminal; the main one ends the others in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class RayCluster:
    """Tasks on a Ray cluster, whose machines need this package and the checkpoint's path."""

    def __init__(self, settings: EvalSettings, workers: int | None, address: str | None) -> None:
        """address: of a running cluster; None starts one on this machine.

        Raises ConfigurationError where Ray is not installed or no cluster answers.
        """
        try:
            import ray
        except ImportError:
            raise ConfigurationError(
                "--engine ray needs Ray, an optional part of this package: pip install "
                "'specprune_ros[ray]'"
            ) from None
        if address is not None:
            _check_answers(address)
        self._ray = ray
        self._owns = not ray.is_initialized()
        if self._owns:
            cpus = workers * settings.threads if workers else None
            own = {} if address else {"num_cpus": cpus, "include_dashboard": False}
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(address, log_to_driver=False, logging_level="warning", **own)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigurationError(f"no Ray cluster at '{address}': {error}") from error
        cpus = int(ray.cluster_resources().get("CPU", 1))
        self.slots = workers or max(1, cpus // settings.threads)
        gpus = 1 if settings.device.startswith("cuda") else 0
        self._run = ray.remote(num_cpus=settings.threads, num_gpus=gpus)(run_job)
        self._settings = ray.put(settings)

    def submit(self, job: Job) -> Any:
        return self._run.remote(self._settings, job)

    def finished(self, handles: Sequence[Any]) -> tuple[Any, Record]:
        done, _ = self._ray.wait(list(handles), num_returns=1)
        try:
            return done[0], self._ray.get(done[0])
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, SpecpruneError) else error) from None

    def close(self) -> None:
        if self._owns:
            self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray itself would try a host:port for minutes without a word."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit() and "/" not in host):
        return  # "auto", or a ray:// address
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ConfigurationError(
            f"no Ray cluster at '{address}' ({error}): start one with 'ray start --head', or leave "
            "out --ray-address"
        ) from None


def make_engine(
    name: str, settings: EvalSettings, workers: int | None, address: str | None = None
) -> Engine:
    """``local`` or ``ray``. workers: processes (local: 1 plays in this one), None for the default.

    Raises ConfigurationError.
    """
    if workers is not None and workers < 1:
        raise ConfigurationError(f"--workers is {workers}; it must be >= 1")
    if name == "ray":
        return RayCluster(settings, workers, address)
    if address is not None:
        raise ConfigurationError("--ray-address is for --engine ray")
    if workers is None or workers == 1:
        return InProcess(settings)
    return Processes(settings, workers)
