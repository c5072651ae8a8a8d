"""Spinning until a signal comes, with the context still up, so that a node can say good-bye.

ROS's own handler shuts the context down at once, in a thread of its own: a last message could not
be published any more, and the end of a node would run beside it.
Initialise with ``rclpy.init(signal_handler_options=SignalHandlerOptions.NO)``.
"""
from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.executors import Executor, ExternalShutdownException

_LONGEST_WAIT = 0.1  # s; a signal does not wake the executor


def spin_until_signal(executor: Executor) -> None:
    """Spin until SIGINT or SIGTERM, or until the context is shut down; a second signal raises
    KeyboardInterrupt."""
    with stop_signals() as stopping:
        try:
            while executor.context.ok() and not stopping.is_set():
                executor.spin_once(timeout_sec=_LONGEST_WAIT)
        except (KeyboardInterrupt, ExternalShutdownException):
            pass


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second signal raises KeyboardInterrupt."""
    stopping = threading.Event()

    def stop(_signum: int, _frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
