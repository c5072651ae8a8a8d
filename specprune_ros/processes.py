"""Child processes that live and die together: start, forward their output, watch, stop."""
from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .errors import SpecpruneError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TAIL_LINES = 40


class ProcessDied(SpecpruneError):
    """A process ended by itself; the message names it, its exit status and its last output."""


class ChildProcess:
    """One child with its standard output and error in a log file (and live on ``echo``)."""

    def __init__(self, name: str, command: Sequence[str], log_file: Path | None,
                 echo: Callable[[str], None] | None, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log_file = log_file
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._echo = echo
        # A session of its own: Ctrl-C in the terminal reaches this process only, which then stops
        # the children in order, each with one signal.
        self.popen = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True,
            preexec_fn=_die_with_parent())  # noqa: PLW1509 (one thread: see start)
        self._reader = threading.Thread(target=self._forward, name=f"log {name}", daemon=True)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def start_forwarding(self) -> None:
        self._reader.start()

    def tail(self) -> str:
        """The last lines of output."""
        return "\n".join(self._tail)

    def join_output(self, timeout: float = 2.0) -> None:
        """Wait until the output of an ended process has been read."""
        if self._reader.is_alive():
            self._reader.join(timeout)

    def _forward(self) -> None:
        log = self.log_file.open("a", encoding="utf-8") if self.log_file else None
        try:
            for raw in self.popen.stdout:
                line = raw.decode("utf-8", errors="replace").rstrip("\n")
                self._tail.append(line)
                if log:
                    log.write(line + "\n")
                    log.flush()
                if self._echo:
                    self._echo(f"[{self.name}] {line}")
        finally:
            if log:
                log.close()


class ProcessGroup:
    """Processes that are stopped together. Use it as a context manager.

    log_dir: folder for ``<name>.log``, made if missing; None keeps only the last lines in memory.
    echo: called with every line of output, prefixed by the process name; None for silence.
    """

    def __init__(self, log_dir: Path | None = None,
                 echo: Callable[[str], None] | None = None) -> None:
        self._log_dir = log_dir
        self._echo = echo
        self.children: list[ChildProcess] = []

    def __enter__(self) -> ProcessGroup:  # noqa: PYI034 (Self: Python 3.11)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self, commands: Mapping[str, Sequence[str]],
              environment: Mapping[str, str] | None = None) -> None:
        """Start ``{name: command}``, in order. Call it once, before other threads are started."""
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
        for name, command in commands.items():
            log_file = self._log_dir / f"{name}.log" if self._log_dir else None
            if log_file:
                log_file.write_text("", encoding="utf-8")
            self.children.append(ChildProcess(name, command, log_file, self._echo,
                                              os.environ if environment is None else environment))
        # Threads come last: Popen with a preexec_fn is only safe while there is one thread.
        for child in self.children:
            child.start_forwarding()

    def ended(self) -> list[ChildProcess]:
        """Children that have ended by themselves."""
        return [child for child in self.children if child.popen.poll() is not None]

    def check(self) -> None:
        """Raise :class:`ProcessDied` for a child that ended, whatever its exit status."""
        for child in self.ended():
            raise self.death(child)

    def death(self, child: ChildProcess) -> ProcessDied:
        """The error for a child that has ended."""
        child.join_output()
        code = child.popen.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        log = f"\nFull log: {child.log_file}" if child.log_file else ""
        return ProcessDied(f"{child.name} (pid {child.pid}) {how}. Its last output:\n"
                           f"{child.tail() or '(none)'}{log}")

    def stop(self, interrupt_s: float = 8.0, terminate_s: float = 4.0) -> None:
        """Stop every child, the last started first: SIGINT, then SIGTERM, then SIGKILL."""
        for signum, patience in ((signal.SIGINT, interrupt_s), (signal.SIGTERM, terminate_s),
                                 (signal.SIGKILL, terminate_s)):
            for child in reversed(self.children):
                if child.popen.poll() is None:
                    child.popen.send_signal(signum)
            deadline = time.monotonic() + patience
            while self._running() and time.monotonic() < deadline:
                time.sleep(0.02)
            if not self._running():
                break
        for child in self.children:
            child.join_output()
            if child.popen.stdout and not child._reader.is_alive():
                child.popen.stdout.close()

    def _running(self) -> bool:
        return any(child.popen.poll() is None for child in self.children)


def _die_with_parent() -> Callable[[], None] | None:
    """Function for the child that has it sent SIGTERM when its parent dies (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # the parent died in between
            os.kill(os.getpid(), signal.SIGTERM)

    return set_death_signal
