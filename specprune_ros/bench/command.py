"""``specprune bench``, loaded with one thread for numerics (see ``analysis.threads``)."""
from __future__ import annotations

import argparse

from specprune_ros.analysis.threads import limit_numeric_threads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    limit_numeric_threads()
    from specprune_ros.bench import benchmark

    benchmark.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from specprune_ros.bench import benchmark

    return benchmark.run(args)
