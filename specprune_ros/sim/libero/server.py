"""The process that plays LIBERO for another one: it answers messages until the other side is gone.

Started by ``remote.RemoteLibero`` with a file descriptor, a suite and a picture size. It needs
LIBERO, MuJoCo and NumPy, and of this package only what ``sim/libero`` imports.
"""
from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from ...errors import SpecpruneError
from .simulator import LiberoSimulator
from .wire import Arrays, pack, receive, send

Message = tuple[dict[str, Any], Arrays]


def main(arguments: Sequence[str]) -> int:
    """Serve the simulator: descriptor, suite, render size."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other side's to handle
    descriptor, suite, size = arguments
    connection = Connection(int(descriptor))
    simulator: LiberoSimulator | None = None
    try:
        try:
            simulator = LiberoSimulator(suite, int(size))
        except SpecpruneError as error:
            send(connection, _failure(error))
            return 1
        send(connection, {"tasks": simulator.tasks, "versions": simulator.versions})
        _serve(connection, simulator)
    except (EOFError, OSError):
        pass  # the other side is gone
    finally:
        if simulator is not None:
            simulator.close()
    return 0


def _serve(connection: Connection, simulator: LiberoSimulator) -> None:
    while True:
        fields, arrays = receive(connection)
        if fields["call"] == "close":
            return
        try:
            answer, found = _call(simulator, fields, arrays)
        except Exception as error:
            if not isinstance(error, SpecpruneError):
                logging.exception("call %s", fields["call"])
            answer, found = _failure(error), {}
        send(connection, answer, found)


def _call(simulator: LiberoSimulator, fields: dict[str, Any], arrays: Arrays) -> Message:
    match fields["call"]:
        case "reset":
            answer, found = pack(simulator.reset(fields["task"], fields["init_state"]))
            state = {"instruction": simulator.instruction,
                     "possible_tasks": simulator.possible_tasks()}
            return {**answer, **state}, found
        case "observe":
            return pack(simulator.observe(fields["render"]))
        case "step":
            return {"success": simulator.step(arrays["action"])}, {}
        case "success":
            return {"success": simulator.success()}, {}
    raise ValueError(f"unknown call {fields['call']!r}")


def _failure(error: Exception) -> dict[str, Any]:
    """What went wrong, by the name of the error's class."""
    known = isinstance(error, SpecpruneError)
    text = str(error) if known else f"LIBERO failed ({type(error).__name__}: {error})"
    return {"error": type(error).__name__ if known else "SimulatorError", "message": text}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
