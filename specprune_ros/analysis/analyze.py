"""``specprune analyze SUB``: the experiments on recordings, each with JSON, CSV and a picture."""
from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from specprune_ros.analysis.threads import limit_numeric_threads
from specprune_ros.analysis.writing import check_output_file

#: name -> help; each is a module of this folder with add_arguments(parser) and run(args) -> int.
EXPERIMENTS = {
    "roofline": "arithmetic intensity of each stage against the ridge of a device",
    "thresholds": "sweep of the controller's thresholds: fine share, tokens, FLOPs, time, success",
    "hitrate": "overlap of attention's top-k between layers and between queries",
    "overhead": "cost of frame comparison, scoring, selection and gather, per resolution",
    "sensitivity": "sweep of the budgets and of all of them together (alpha)",
    "options": "gain and effect on actions of what is off by default (docs/performance.md)",
    "ablation": "without each part of the method; speculation depth; frame interval",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    limit_numeric_threads()  # the experiments load NumPy
    experiments = parser.add_subparsers(dest="analysis", metavar="SUB", title="experiments",
                                        required=True)
    for name, text in EXPERIMENTS.items():
        sub = experiments.add_parser(
            name, help=text, description=text[:1].upper() + text[1:] + ".",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.add_argument("--out", type=Path, default=Path("analysis"), metavar="DIR",
                         help=f"folder for {name}.json, .csv and .png")
        sub.add_argument("--report", type=Path, metavar="FILE", help="one HTML file, too")
        import_module(f"{__package__}.{name}").add_arguments(sub)


def run(args: argparse.Namespace) -> int:
    results = args.out / args.analysis
    files = [results.with_suffix(suffix) for suffix in (".json", ".csv", ".png")]
    for path in filter(None, (*files, args.report)):
        check_output_file(path)
    status = import_module(f"{__package__}.{args.analysis}").run(args)
    if args.report and status == 0:
        from specprune_ros.analysis.output import say_written
        from specprune_ros.analysis.reports import write_analysis_report

        say_written([write_analysis_report(args.report, results, EXPERIMENTS[args.analysis])])
    return status
