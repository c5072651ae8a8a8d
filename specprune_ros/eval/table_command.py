"""``specprune eval-table``: results on LIBERO's suites in the layout of the paper's table."""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.paper import LEGEND, paper_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="*", type=Path, metavar="FILE",
                        help="JSON of specprune eval, one per suite (without it: the paper's "
                        "figures alone)")


def run(args: argparse.Namespace) -> int:
    documents = [_read(path) for path in args.results]
    console = Console()
    console.print(paper_table(documents))
    console.print(LEGEND, highlight=False)
    return 0


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"'{path}' is no result of specprune eval: {error}") from None
