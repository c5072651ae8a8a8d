"""What happens in a replay, in order: time is set, an input is delivered, an episode begins."""
from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from ..analysis.bag_file import Bag
from ..errors import ConfigurationError, RecordingError
from .plan import STRING, Plan
from .resets import RecordedEpisodes, Status

CLOCKS = ("auto", "bag", "recorded", "stamps")
_NANO = 1_000_000_000
_ANOTHER_CLOCK = 60 * _NANO  # no input is as late; stamps are then of a clock of their own
_BACK = _NANO  # a stamp that is older than this is not late: time was set back
_SAMPLES = 200


@dataclass(frozen=True)
class SetTime:
    """Simulated time becomes ``ns``."""

    ns: int


@dataclass(frozen=True)
class Deliver:
    """A message (CDR) for the node's topic."""

    topic: str
    raw: bytes


@dataclass(frozen=True)
class Reset:
    """The service reset_episode is called."""


Event = SetTime | Deliver | Reset


def stamp_of(raw: bytes) -> int:
    """header.stamp in ns of a message (CDR) that begins with a header. Raises RecordingError."""
    if len(raw) < 12:
        raise RecordingError(f"a message of {len(raw)} bytes has no header")
    order = "<" if raw[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", raw, 4)
    return seconds * _NANO + nanoseconds


def choose_clock(bag: Bag, plan: Plan, asked: str = "auto") -> str:
    """Where time comes from: ``bag`` (its /clock), ``recorded`` (when messages were recorded) or
    ``stamps`` (the newest header.stamp).

    ``auto`` takes the bag's clock if there is one, the time of recording if the stamps are of that
    clock, else the stamps.

    Raises:
        ConfigurationError: the bag has no clock.
    """
    if asked == "bag" and plan.clock is None:
        raise ConfigurationError(f"--clock bag: '{bag.path}' has no rosgraph_msgs/Clock; use "
                                 "recorded or stamps")
    if asked != "auto":
        return asked
    if plan.clock is not None:
        return "bag"
    late = []
    for _, time, raw in bag.raw(_stamped(plan)):
        late.append(abs(time - stamp_of(raw)))
        if len(late) == _SAMPLES:
            break
    return "recorded" if late and median(late) < _ANOTHER_CLOCK else "stamps"


def timeline(bag: Bag, plan: Plan, clock: str, instruction: str | None = None) -> Iterator[Event]:
    """The events of a replay.

    clock: as choose_clock() gives it. instruction: replaces the recorded ones.

    Raises:
        RecordingError: the bag is damaged.
    """
    inputs = {topic: name for topic, name in plan.inputs.items()
              if instruction is None or name != "instruction"}
    stamped, status = _stamped(plan), plan.outputs.get("vla_status")
    episodes = RecordedEpisodes(
        (Status(m.episode, m.instruction, m.images_received, m.chunks)
         for _, _, m in bag.messages([status] if status else [])),
        instruction is not None)
    now: int | None = None
    topics = {*inputs, *filter(None, (status, plan.clock if clock == "bag" else None))}
    for topic, time, raw in bag.raw(topics):
        if topic == status:
            yield from _resets(episodes.at_status())
            continue
        if topic not in inputs:
            message = bag.decode(topic, raw)
            yield SetTime(message.clock.sec * _NANO + message.clock.nanosec)
            continue
        if clock != "bag":
            new = time if clock == "recorded" else _stamp_time(topic, raw, stamped, now)
            if new is not None and new != now:
                now = new
                yield SetTime(now)
        name = inputs[topic]
        if name == "instruction":
            yield from _resets(episodes.before_instruction(_text(bag, topic, raw)))
        yield Deliver(name, raw)
        if name == "instruction":
            yield from _resets(episodes.after_instruction())


def check_complete(bag: Bag, plan: Plan, instruction: str | None) -> None:
    """Raise RecordingError where vla_node could not make a single query of this bag."""
    if instruction is None and "instruction" not in plan:
        strings = ", ".join(bag.topics_of(STRING)) or "no topic"
        raise RecordingError(
            f"bag '{bag.path}' has no instruction: give --instruction TEXT, or --remap "
            f"TOPIC:=instruction; strings are on {strings}")
    empty = sorted(topic for topic, name in plan.inputs.items()
                   if name.startswith("camera/") and not bag.counts[topic])
    if empty:
        raise RecordingError(f"bag '{bag.path}' holds no message on {', '.join(empty)}")


def _stamped(plan: Plan) -> set[str]:
    return {topic for topic in plan.inputs if plan.kinds[topic] != STRING}


def _stamp_time(topic: str, raw: bytes, stamped: set[str], now: int | None) -> int | None:
    if topic not in stamped:
        return now
    stamp = stamp_of(raw)
    return stamp if now is None or stamp > now or stamp < now - _BACK else now


def _text(bag: Bag, topic: str, raw: bytes) -> str:
    return bag.decode(topic, raw).data


def _resets(count: int) -> Iterable[Reset]:
    return (Reset() for _ in range(count))
