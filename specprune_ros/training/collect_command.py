"""``specprune collect``: demonstrations of the scripted expert for training."""
from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from specprune_ros.training.collect import TRAINING_SEEDS, CollectConfig, collect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = CollectConfig()
    parser.add_argument("--suite", default=defaults.suite, help="suite of the embedded simulator")
    parser.add_argument("--episodes", type=int, default=defaults.episodes,
                        help="episodes that are played; those that fail are left out")
    parser.add_argument(
        "--first-seed",
        type=int,
        default=defaults.first_seed,
        help=f"first initial state, within the training range {TRAINING_SEEDS.start} to "
        f"{TRAINING_SEEDS.stop - 1}",
    )
    parser.add_argument(
        "--every", type=int, default=defaults.every, help="control periods between two samples"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, required=True, help="directory for the shards")


def run(args: argparse.Namespace) -> int:
    config = CollectConfig(
        suite=args.suite, episodes=args.episodes, first_seed=args.first_seed, every=args.every
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("shards", total=None)
        for done, total in collect(config, args.out, args.workers):
            progress.update(bar, completed=done, total=total)
    return 0
