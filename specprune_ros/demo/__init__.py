"""``specprune demo``: a simulated arm driven over ROS 2 by the pruned policy, counted and filmed.

Three processes talk over DDS: vla_node, sim_bridge_node, and this one, which only listens.
"""
from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from ..errors import ConfigurationError

DEFAULT_VIDEO = Path("out/demo.mp4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``specprune demo``."""
    parser.add_argument("--seconds", type=_positive, default=60.0, metavar="S",
                        help="wall seconds to run, counted from the first action chunk")
    window = parser.add_mutually_exclusive_group()
    window.add_argument("--headless", dest="view", action="store_false", default=False,
                        help="render off screen; so it is without --view")
    window.add_argument("--view", action="store_true", default=False,
                        help="show the scene in a window; needs a display")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--video", type=Path, metavar="FILE", default=DEFAULT_VIDEO,
                        help="MP4 of the run")
    parser.add_argument("--no-video", dest="video", action="store_const", const=None,
                        help="write no video")
    for name, text in (
            ("checkpoint", "directory of the policy, or the name of an installed one"),
            ("pruning", "pruning preset or method; off keeps every token"),
            ("device", "torch device: cpu, cuda, ..."),
            ("suite", "suite of simulated worlds")):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS,
                            help=f"{text} (default: as in the parameter file)")
    parser.add_argument("--seed", type=int, default=argparse.SUPPRESS, metavar="N",
                        help="initial state of the first episode "
                             "(default: as in the parameter file)")
    parser.add_argument("--params-file", type=Path, default=argparse.SUPPRESS, metavar="FILE",
                        help="parameter file of the nodes (default: the installed one)")
    parser.add_argument("--verbose", action="store_true", default=False,
                        help="show the logs of the nodes while they run")
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, default=[],
                        help="what follows goes to both nodes, e.g. -p pacing:=realtime")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 if action chunks flowed to the end. Errors are SpecpruneErrors."""
    if find_spec("rclpy") is None:
        raise ConfigurationError(
            "rclpy is not installed: source a ROS 2, or install the wheels with "
            "pip install 'specprune_ros[ros]'"
        )
    from .runner import run_demo

    return run_demo(args)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds > 0, not {text!r}")
    return value
