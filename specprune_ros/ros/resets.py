"""What ``vla_node/reset_episode`` answers, written by vla_node and read by sim_bridge_node."""
from __future__ import annotations

import re

from .conversions import NANOSECONDS, ns_to_text

_EPISODE = re.compile(r"episode (\d+) ")
_START = re.compile(r"from (\d+)\.(\d{9}) s")


def reset_answer(episode: int, start: int) -> str:
    """Episode number, and the time (ns on the ROS clock) from which on inputs count for it."""
    return f"episode {episode} from {ns_to_text(start)} s"


def reset_number(answer: str) -> int | None:
    """The ``episode`` in an answer of :func:`reset_answer`; None where it does not say."""
    found = _EPISODE.match(answer)
    return int(found[1]) if found else None


def reset_start(answer: str) -> int | None:
    """The ``start`` in an answer of :func:`reset_answer`; None where it does not say."""
    found = _START.search(answer)
    return int(found[1]) * NANOSECONDS + int(found[2]) if found else None
