"""``specprune view``: a page on this machine that shows a running policy and tunes it.

The page is served to this machine only; see docs/view.md.
"""
from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from ..errors import ConfigurationError

PORT = 8765


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``specprune view``."""
    parser.add_argument("--port", type=_port, default=PORT, metavar="N",
                        help="TCP port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--node", default="vla_node", metavar="NAME", help="name of the node")
    parser.add_argument("--namespace", default="", metavar="NS", help="namespace of the node")
    parser.add_argument("--seconds", type=float, metavar="S",
                        help="stop after so many seconds (without it: at Ctrl-C)")
    demo = parser.add_argument_group("with --demo")
    demo.add_argument("--demo", action="store_true",
                      help="start vla_node and the simulated arm as well, in a ROS domain of "
                           "their own")
    for name, text in (
            ("checkpoint", "directory of the policy, or the name of an installed one"),
            ("pruning", "pruning preset or method; off keeps every token"),
            ("device", "torch device: cpu, cuda, ..."),
            ("suite", "suite of simulated worlds")):
        demo.add_argument(f"--{name}", help=f"{text} (default: as in the parameter file)")
    demo.add_argument("--params-file", type=Path, metavar="FILE",
                      help="parameter file of the nodes (default: the installed one)")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C. Errors are SpecpruneErrors."""
    if find_spec("rclpy") is None:
        raise ConfigurationError("rclpy is not installed: source a ROS 2, or install the wheels "
                                 "with pip install 'specprune_ros[ros]'")
    if find_spec("aiohttp") is None:
        raise ConfigurationError("aiohttp is not installed: pip install 'aiohttp~=3.8', or "
                                 "apt-get install python3-aiohttp")
    if args.seconds is not None and not args.seconds > 0:
        raise ConfigurationError(f"--seconds is {args.seconds}; it must be > 0")
    from .serve import run_view

    return run_view(args)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, not {text!r}")
    return int(text)
