"""``specprune bench``: options, and what is done in which order."""
from __future__ import annotations

import argparse
from pathlib import Path

from specprune_ros.analysis.output import say_written, write_json
from specprune_ros.analysis.threads import numeric_threads
from specprune_ros.analysis.writing import check_output_file, check_output_folder
from specprune_ros.bench.arms import ARMS, DEFAULT, choose
from specprune_ros.bench.models import SHAPES
from specprune_ros.bench.plots import draw
from specprune_ros.bench.report import write_report
from specprune_ros.bench.session import Bench
from specprune_ros.bench.streams import SPEEDS
from specprune_ros.bench.table import show
from specprune_ros.errors import ConfigurationError
from specprune_ros.runtime.choice import RUNTIMES
from specprune_ros.types import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is measured")
    what.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="torch device")
    what.add_argument("--model", default="small", metavar="NAME|DIR",
                      help=f"{', '.join(SHAPES)}: random weights of that shape, made on the "
                           "device; or a checkpoint directory")
    what.add_argument("--arms", default=DEFAULT, help="; ".join(
        f"{arm.name}: {arm.text}" for arm in ARMS.values()))
    what.add_argument("--dtype", choices=DTYPES,
                      help="without it: float32 on cpu, as evaluations run, bfloat16 on cuda; "
                           "auto: bfloat16 where the processor has instructions for it")
    what.add_argument("--runtime", choices=RUNTIMES, default="auto", help="of the arms b and d")
    queries = parser.add_argument_group("queries")
    queries.add_argument("--scene", choices=("static", "moving"), default="static",
                         help="static: no picture changes within an episode")
    queries.add_argument("--mode", choices=tuple(SPEEDS), default="coarse",
                         help="of the controller: a moving arm is coarse, a resting one fine")
    queries.add_argument("--cameras", type=int, choices=(1, 2, 3), default=2,
                         help="camera pictures per query")
    queries.add_argument("--size", type=int, default=256, help="edge of the camera pictures, px")
    queries.add_argument("--prompt-tokens", type=int, default=34, help="after BOS")
    queries.add_argument("--queries", type=int, metavar="N",
                         help="timed queries of each arm (without it: 15 on cpu, 100 on cuda)")
    queries.add_argument("--threads", type=int, default=1, help="CPU threads of the numerics")
    queries.add_argument("--seed", type=int, default=0, help="of weights and pictures")
    results = parser.add_argument_group("results")
    results.add_argument("--sweep", action="store_true",
                         help="also time queries and single layers over numbers of tokens")
    results.add_argument("--json", type=Path, metavar="FILE", help="results")
    results.add_argument("--plot", type=Path, metavar="DIR",
                         help="folder for the pictures; makes the sweep as well")
    results.add_argument("--report", type=Path, metavar="FILE", help="one HTML file")


def run(args: argparse.Namespace) -> int:
    check(args)
    arms = choose(args.arms)
    with numeric_threads(args.threads):
        document = Bench(args, arms).document()
    written = []
    if args.json:
        written.append(write_json(args.json, document))
    pictures = draw(document, args.plot) if args.plot else []
    written += pictures
    if args.report:
        written.append(write_report(args.report, document, pictures))
    show(document)
    if written:
        say_written(written)
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises ConfigurationError before anything is measured in vain."""
    for name, least in (("queries", 3), ("threads", 1), ("prompt_tokens", 16), ("size", 32)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigurationError(f"--{name.replace('_', '-')} must be >= {least}, not {value}")
    for path in filter(None, (args.json, args.report)):
        check_output_file(path)
    if args.plot:
        check_output_folder(args.plot)
