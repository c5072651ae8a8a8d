"""What is wrong at present, and the edges at which it begins and ends."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class FaultCode(IntEnum):
    """Codes of VlaStatus.msg; a lower one is reported first."""

    NONE = 0
    CHECKPOINT = 1
    CONFIGURATION = 2
    IMAGE = 3
    JOINT_STATE = 4
    INSTRUCTION = 5
    ROBOT_DESCRIPTION = 6
    INFERENCE = 7
    GUARD = 8
    TIMEOUT = 9


@dataclass(frozen=True)
class Fault:
    """code: the kind. source: what it is about (a topic, ...). text: what is wrong, the remedy."""

    code: FaultCode
    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


class FaultBook:
    """The faults that hold at present: at most one per kind and source.

    ``on_begin`` and ``on_end`` are called at the edges only, so that a fault that comes with every
    message is logged once. The caller serialises access.
    """

    def __init__(self, on_begin: Callable[[Fault], None], on_end: Callable[[Fault], None]) -> None:
        self._on_begin = on_begin
        self._on_end = on_end
        self._present: dict[tuple[FaultCode, str], Fault] = {}
        self.count = 0  # faults begun

    def raise_fault(self, code: FaultCode, source: str, text: str) -> bool:
        """Note a fault; returns whether it begins now. A new text replaces the old one silently."""
        fault = Fault(code, source, text)
        begins = (code, source) not in self._present
        self._present[code, source] = fault
        if begins:
            self.count += 1
            self._on_begin(fault)
        return begins

    def clear(self, code: FaultCode | None = None, source: str | None = None) -> None:
        """End the faults of a kind and source; None stands for every kind, every source."""
        for key in list(self._present):
            if code in (None, key[0]) and source in (None, key[1]):
                self._on_end(self._present.pop(key))

    def restart_count(self) -> None:
        """Count from the faults that are present now."""
        self.count = len(self._present)

    def present(self) -> list[Fault]:
        """The faults that hold, the lowest code first."""
        return sorted(self._present.values(), key=lambda fault: (fault.code, fault.source))
