"""``specprune record``: inputs and outputs of a running vla_node into a bag."""
from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, RecordingError, SpecpruneError

_SPIN_S = 0.1
_LINE_S = 5.0  # between two lines about the progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder of the bag; it must not exist")
    parser.add_argument("--topics", nargs="+", default=[], metavar="TOPIC",
                        help="more topics, besides those that vla_node reads and publishes, "
                             "/clock, /parameter_events and sim_status")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="TOPIC",
                        help="topics that are not recorded")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--seconds", type=float, metavar="S",
                     help="stop so long after the first picture, joint state or answer, on "
                          "/clock where there is one (without it: at Ctrl-C)")
    end.add_argument("--episodes", type=int, metavar="N", help="stop after so many episodes")
    parser.add_argument("--node", default="vla_node", metavar="NAME", help="name of the node")
    parser.add_argument("--namespace", default="", metavar="NS", help="namespace of the node")


def run(args: argparse.Namespace) -> int:
    if args.seconds is not None and not args.seconds > 0:
        raise ConfigurationError(f"--seconds is {args.seconds}; it must be > 0")
    if args.episodes is not None and args.episodes < 1:
        raise ConfigurationError(f"--episodes is {args.episodes}; it must be >= 1")
    if find_spec("rclpy") is None:
        raise ConfigurationError("rclpy is not installed: source a ROS 2, or install the wheels "
                                 "with pip install 'specprune_ros[ros]'")
    from ..analysis.writing import check_output_folder
    from ..bringup import check_namespace
    from .bag_writer import BagWriter

    check_namespace(args.namespace)
    writer = BagWriter(args.out)
    check_output_folder(args.out)
    stop = _stop_on_signals()
    from ..ros.bag_recorder import BagRecorder

    topics = [[_full(name, args.namespace) for name in names]
              for names in (args.topics, args.exclude)]
    with BagRecorder(writer, args.node, args.namespace, *topics) as recorder:
        try:
            _record(recorder, args, stop)
        finally:
            writer.close(_note(recorder, args))
        if writer.empty:
            raise RecordingError(
                "nothing was recorded: no topic of vla_node had a message. Are the nodes up, and "
                f"in this ROS domain (ROS_DOMAIN_ID={os.environ.get('ROS_DOMAIN_ID', '0')})?")
        _report(recorder, {**recorder.refused, **writer.refused}, args.out)
    return 0


def _record(recorder, args: argparse.Namespace, stop: list[int]) -> None:
    next_line = time.monotonic() + _LINE_S
    while not stop:
        recorder.spin(_SPIN_S)
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + _LINE_S
            _say(f"{recorder.total} messages on {len(recorder.counts)} topics"
                 + ("" if recorder.node_seen else f"; no node {args.node} so far"))
        if args.seconds is not None and (recorder.age or 0.0) >= args.seconds:
            break
        if args.episodes is not None and recorder.episodes >= args.episodes:
            break
    recorder.drain()


def _note(recorder, args: argparse.Namespace) -> dict[str, Any]:
    """What is noted in the bag: where it comes from, and what is missing in it."""
    from ..provenance import checkpoint_hash, git_commit, versions
    from ..share import checkpoint_dir

    note: dict[str, Any] = {
        "versions": versions(), "commit": git_commit(), "node": args.node,
        "namespace": args.namespace, "parameters": recorder.parameters,
        "lost": recorder.lost, "not_recorded": recorder.refused,
    }
    if "checkpoint" in recorder.parameters:
        name = str(recorder.parameters["checkpoint"])
        note["checkpoint"] = {"name": name}
        try:
            note["checkpoint"]["hash"] = checkpoint_hash(checkpoint_dir(name))
        except SpecpruneError as error:  # the node runs on another machine
            note["checkpoint"]["error"] = str(error)
    return note


def _report(recorder, refused: dict[str, str], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("topic")
    for name in ("messages", "lost"):
        table.add_column(name, justify="right")
    for name, count in sorted(recorder.counts.items()):
        table.add_row(name, str(count), str(recorder.lost.get(name, 0)))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for name, why in sorted(refused.items()):
        console.print(f"not recorded: {name}: {why}", markup=False)
    if not recorder.node_seen:
        console.print("no vla_node was there: its topics were found by their names, and no "
                      "parameters were noted")
    lost = sum(recorder.lost.values())
    console.print(f"wrote {out}: {recorder.total} messages, {lost} lost", markup=False)


def _stop_on_signals() -> list[int]:
    """A list that gets an element at SIGINT, SIGTERM or SIGHUP: the bag must be closed first."""
    stop: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda number, _frame: stop.append(number))
    return stop


def _full(name: str, namespace: str) -> str:
    prefix = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
    return name if name.startswith("/") else f"{prefix}/{name}"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
