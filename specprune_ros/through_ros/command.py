"""``specprune eval``: as ``specprune_ros.eval`` has it, in process or through the nodes."""
from __future__ import annotations

import argparse
from importlib.util import find_spec

from ..errors import ConfigurationError
from ..eval import command

METHODS = "off,specprune,random_keep"  # where none are named
#: Frames that vla_node keeps while a query runs (specprune_ros/ros/planner.py).
MAX_REPLAN = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)
    parser.set_defaults(in_process_methods=parser.get_default("methods"), methods=None)
    group = parser.add_argument_group("through ROS")
    group.add_argument("--through-ros", action="store_true",
                       help="play the episodes through sim_bridge_node and vla_node over DDS, in "
                       "lockstep: processes of their own, in a ROS domain of their own")
    group.add_argument("--ros-timeout", type=float, default=600.0, metavar="S",
                       help="give the nodes up after so many seconds without news of them: more "
                       "than a query, or loading the checkpoint, takes")


def run(args: argparse.Namespace) -> int:
    in_process = vars(args).pop("in_process_methods")
    if args.methods is None:
        args.methods = METHODS if args.through_ros else in_process
    if not args.through_ros:
        return command.run(args)
    check(args)
    from ..bringup import stop_on_sigterm
    from ..eval import evaluation
    from .engine import ThroughRos

    stop_on_sigterm()
    return evaluation.run(args, lambda settings: ThroughRos(settings, args.ros_timeout))


def check(args: argparse.Namespace) -> None:
    """Raise ConfigurationError, with the reason, for what cannot be played through the nodes."""
    from ..eval.methods import BY_RATIO, COPIES, VIEWS, parse_methods

    methods = parse_methods(args.methods)
    copies = [name for name in methods if name in COPIES]
    views = [name for name in methods if name in VIEWS]
    replan = args.replan or args.chunk_length
    refused = {
        f"the methods {', '.join(copies)} copy the counts of another episode, which vla_node has "
        f"no parameter for: use {', '.join(BY_RATIO)}, which have a keep ratio of their own":
            copies,
        f"the methods {', '.join(views)} are views of a world, and sim_bridge_node shows its "
        "world as it is": views,
        "--perturb changes the world, and sim_bridge_node shows its world as it is": args.perturb,
        "--match-flops sets keep ratios and budgets, which vla_node has no parameter for":
            args.match_flops,
        "--action-distance asks a second policy, and vla_node has one": args.action_distance,
        f"--engine {args.engine} plays on other machines, the nodes run on this one":
            args.engine != "local" or args.ray_address,
        "--workers is more than 1: one pair of nodes plays the episodes one after the other":
            (args.workers or 1) > 1,
        f"{replan} actions are played of each chunk, and vla_node keeps {MAX_REPLAN} frames until "
        "it has looked at them: give a smaller --replan": replan > MAX_REPLAN,
        f"--ros-timeout is {args.ros_timeout:g}; it must be a number of seconds > 0":
            not 0 < args.ros_timeout < float("inf"),
    }
    reasons = [reason for reason, applies in refused.items() if applies]
    if reasons:
        raise ConfigurationError("not through ROS: " + "; ".join(reasons))
    if find_spec("rclpy") is None:
        raise ConfigurationError(
            "rclpy is not installed: source a ROS 2, or install the wheels with "
            "pip install 'specprune_ros[ros]'"
        )
