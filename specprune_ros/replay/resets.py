"""When the recorded node began episodes for which the bag holds no message: reset_episode."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_RESET = None  # the other operations are the instructions that the node took


@dataclass(frozen=True)
class Status:
    """What counts of a recorded VlaStatus."""

    episode: int
    instruction: str
    images_received: int = 0
    chunks: int = 0


class RecordedEpisodes:
    """Says when to call reset_episode, from the recorded messages of vla_status.

    A new episode in them came from another instruction or from a call of the service. What
    the node took first decides whether it used pictures of the old episode, so the order is kept:
    calls that came before an instruction are made before it is delivered.
    """

    def __init__(self, statuses: Iterable[Status], own_instruction: bool = False) -> None:
        """statuses: in the order of recording.

        own_instruction: the recorded instructions are not delivered. Every episode then begins by a
        call.
        """
        self._operations: list[str | None] = []
        self._until: list[int] = []  # operations that had happened at each status
        previous, before_that = None, None
        for status in statuses:
            if previous is not None:
                self._operations += _between(previous, status, own_instruction)
                if before_that is not None and _overtaken(before_that, previous, status):
                    self._operations[-2:] = reversed(self._operations[-2:])
            self._until.append(len(self._operations))
            if previous != status:
                previous, before_that = status, previous
        self._next = 0  # operation
        self._status = 0

    def at_status(self) -> int:
        """Calls to make when the next recorded vla_status is reached."""
        self._status += 1
        return self._due()

    def before_instruction(self, text: str) -> int:
        """Calls to make before an instruction is delivered."""
        rest: Sequence[str | None] = self._operations[self._next:]
        at = next((i for i, operation in enumerate(rest) if operation is not _RESET), None)
        if at is None or rest[at] != text.strip():
            return 0
        self._next += at + 1
        return at

    def after_instruction(self) -> int:
        """Calls to make after an instruction was delivered."""
        return self._due()

    def _due(self) -> int:
        """Calls up to the last status seen, but not beyond an instruction still to come."""
        until, count = self._until[self._status - 1] if self._status else 0, 0
        while self._next < until and self._operations[self._next] is _RESET:
            self._next += 1
            count += 1
        return count


def _between(before: Status, after: Status, own_instruction: bool) -> list[str | None]:
    """What happened between two statuses."""
    begun = max(after.episode - before.episode, 0)
    if own_instruction or after.instruction == before.instruction:
        return [_RESET] * begun
    # Another instruction begins an episode unless none has had a query yet, as after a call.
    return [*[_RESET] * (begun - 1), after.instruction.strip()]


def _overtaken(first: Status, second: Status, third: Status) -> bool:
    """Whether a call came so soon after an instruction that no answer to it was sent.

    The query that the instruction had set off was dropped then. In lock-step it would be answered;
    calling first leaves the node in the same state without it.
    """
    return (second.instruction != first.instruction and second.episode == first.episode + 1
            and third.instruction == second.instruction and third.episode == second.episode + 1
            and third.images_received == second.images_received
            and third.chunks == second.chunks)
