"""What is wrong with stamps and ages, in words."""
from __future__ import annotations

_ANOTHER_CLOCK = 1e6  # s; no plain delay is as long


def about(seconds: float) -> str:
    """A time span so coarse that it stays the same from message to message."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def staleness(name: str, age: float | None, timeout: float) -> str:
    """What is wrong with the age (s) of an input. No figures that change: each text is logged."""
    if age is None:
        return f"{name}: nothing received yet"
    if abs(age) <= timeout:
        return ""
    if abs(age) > _ANOTHER_CLOCK:
        return (f"{name}: stamped by another clock than the node's. Check header.stamp of the "
                "publisher, and use_sim_time")
    if age > 0:
        return f"{name}: nothing newer than input_timeout ({timeout} s)"
    return f"{name}: stamped in the future. Check the clocks"
