"""``specprune doctor``: everything that must be right before the policy runs, line by line."""
from __future__ import annotations

import argparse
from pathlib import Path

from ..types import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="", metavar="DIR",
                        help="directory of the policy, or the name of an installed one (without "
                             "it: the one that comes with the package)")
    parser.add_argument("--device", default="cpu", metavar="D", help="torch device")
    parser.add_argument("--dtype", default="float32", choices=DTYPES,
                        help="type of the weights; auto: bfloat16 where the device is fast with it")
    parser.add_argument("--unnorm-key", metavar="KEY", help="data set whose statistics are used")
    parser.add_argument("--cameras", nargs="+", default=["primary", "wrist"], metavar="NAME",
                        help="as the parameter of vla_node")
    parser.add_argument("--chunk-length", type=int, default=8, metavar="C",
                        help="as the parameter of vla_node")
    parser.add_argument("--pruning", default="specprune", metavar="P",
                        help="method of the timed query")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="write the findings as JSON; - for standard output, in the place of "
                             "the table")


def run(args: argparse.Namespace) -> int:
    """0 unless a line is FAIL."""
    from .examine import examine
    from .report import STANDARD_OUTPUT, show

    if args.json not in (None, STANDARD_OUTPUT):
        from ..analysis.writing import check_output_file

        check_output_file(args.json)
    return show(examine(args), args)
