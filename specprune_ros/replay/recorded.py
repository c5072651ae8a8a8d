"""What a bag says about the vla_node it was recorded from: its answers and its parameters."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..analysis.bag_file import Bag
from ..errors import RecordingError
from .definitions import standard_store
from .plan import Plan, make_plan
from .run import Run, is_run, paired_records, read_run

#: Key of custom_data in metadata.yaml under which `specprune record` notes what it knows.
NOTE = "specprune"


def open_bag(path: Path) -> Bag:
    """A bag, with this package's messages known should it hold no definitions."""
    return Bag(path, standard_store())


def note_of(bag: Bag) -> Mapping[str, Any]:
    """What `specprune record` noted; empty for bags of another recorder."""
    text = bag.notes.get(NOTE)
    if text is None:
        return {}
    try:
        note = json.loads(text)
    except ValueError as error:
        raise RecordingError(f"bag '{bag.path}': the note '{NOTE}' in metadata.yaml is broken: "
                             f"{error}") from error
    return note if isinstance(note, dict) else {}


def recorded_queries(bag: Bag, plan: Plan) -> list[dict[str, Any]]:
    """What the node answered when the bag was recorded; empty where that was not recorded."""
    stats_topic = plan.outputs.get("prune_stats")
    topics = [topic for name, topic in plan.outputs.items() if name != "vla_status"]
    chunks, stats = [], []
    for topic, _, message in bag.messages(topics):
        (stats if topic == stats_topic else chunks).append(message)
    return paired_records(chunks, stats)


def load_run(path: Path) -> Run:
    """A run, or what a bag says of the run it was recorded from.

    Raises:
        RecordingError: it is neither, or the bag holds no answers of one vla_node.
    """
    if not path.exists():
        raise RecordingError(f"'{path}' does not exist; name a folder that `specprune replay BAG "
                             "--out` wrote, or a bag")
    if is_run(path) or (path.is_dir() and not (path / "metadata.yaml").is_file()):
        return read_run(path)
    with open_bag(path) as bag:
        note = note_of(bag)
        plan = make_plan(bag, {}, cameras=())
        queries = recorded_queries(bag, plan)
        if not queries:
            raise RecordingError(f"bag '{path}' has no action_chunk of one vla_node: replay it, "
                                 "and compare the runs")
    return Run(path, {"bag": {"path": str(path)}, "recorded": True, **note}, queries)
