"""Variants of SpecPrune side by side: measured on a stream and, where asked for, in a simulator."""
from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from specprune_ros.analysis.episodes import closed_loop
from specprune_ros.analysis.inputs import Inputs
from specprune_ros.analysis.measure import Measurement, measure
from specprune_ros.analysis.output import progress_bar
from specprune_ros.analysis.threads import one_thread
from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Policy
from specprune_ros.pruning.base import Pruner
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.sim import make_simulator, suite_names
from specprune_ros.sim.view import Measured

Variant = str | SpecPruneConfig | Pruner


def add_preset_argument(parser: argparse.ArgumentParser) -> None:
    """--preset: the variant that the others differ from."""
    parser.add_argument("--preset", choices=tuple(PRESETS), default="specprune",
                        help="preset that is varied")


def base_config(args: argparse.Namespace) -> SpecPruneConfig:
    """The preset that is varied."""
    return preset(args.preset)


def add_suite_arguments(parser: argparse.ArgumentParser) -> None:
    """--suite and how many episodes: success in closed loop beside the figures of the stream."""
    group = parser.add_argument_group("success in closed loop")
    group.add_argument("--suite", choices=suite_names(), help="simulator (without it: no success)")
    group.add_argument("--episodes", type=int, default=10,
                       help="episodes per variant, from the initial states --seed and up")
    group.add_argument("--max-steps", type=int, metavar="N",
                       help="control periods per episode (without it: the suite's)")


def make_policies(inputs: Inputs, variants: Mapping[str, Variant]) -> dict[str, Policy]:
    """One policy per variant, over the same weights."""
    return {label: inputs.policy.with_pruning(variant) for label, variant in variants.items()}


def measure_variants(
    inputs: Inputs, policies: Mapping[str, Policy], text: str
) -> dict[str, Measurement]:
    """:func:`measure` with a progress bar."""
    with progress_bar(text, inputs.queries * len(policies)) as progress:
        return measure(inputs.policy, policies, inputs.recordings, inputs.every,
                       inputs.max_queries, progress)


def success_of(
    args: argparse.Namespace, policies: Mapping[str, Policy]
) -> dict[str, dict[str, Any]]:
    """Closed-loop results of each policy from the same initial states; empty without --suite."""
    if args.suite is None:
        return {}
    for name in ("episodes", "max_steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} is {value}; it must be >= 1")
    simulator = make_simulator(args.suite)
    try:
        periods = {policy.control_period for policy in policies.values()}
        if periods != {simulator.control_period}:
            raise ConfigurationError(
                f"suite '{args.suite}' has a control period of {simulator.control_period} s, the "
                f"stream one of {', '.join(map(str, sorted(periods)))} s"
            )
        found, world = {}, Measured(simulator)
        with progress_bar("episodes", args.episodes * len(policies)) as progress, one_thread():
            for label, policy in policies.items():
                found[label] = closed_loop(
                    world, policy, args.episodes, args.seed, args.max_steps, progress
                ).summary()
        return found
    finally:
        simulator.close()


def flat_row(label: Mapping[str, Any], summary: Mapping[str, Any],
             loop: Mapping[str, Any] | None) -> dict[str, Any]:
    """A CSV line: the label's columns, then every scalar of a summary, then the closed loop's."""
    row = dict(label)
    row |= {k: v for k, v in summary.items() if not isinstance(v, (list, dict))}
    row |= {f"loop_{k}": v for k, v in (loop or {}).items()}
    return row
