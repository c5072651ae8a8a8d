"""``specprune replay``: a bag through the real vla_node, or two such runs compared."""
from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ..errors import ConfigurationError

#: Exit status of --diff where the runs differ by more than the limits.
DIFFERENT = 1
STANDARD_OUTPUT = Path("-")
TABLE_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", nargs="?", type=Path, metavar="BAG",
                        help="ROS 2 bag (MCAP or SQLite), recorded by specprune record or ros2 bag")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder for the run; made anew")
    node = parser.add_argument_group(
        "node", "vla_node of the replay; without these it has the parameters that specprune record "
                "noted in the bag, or those of the installed parameter file")
    node.add_argument("--checkpoint", metavar="DIR",
                      help="directory of the policy, or the name of an installed one")
    node.add_argument("--pruning", metavar="P", help="preset or method; off keeps every token")
    node.add_argument("--device", metavar="D", help="torch device: cpu, cuda, ...")
    node.add_argument("--params-file", type=Path, metavar="FILE",
                      help="parameter file, in the place of the recorded parameters")
    node.add_argument("--param", action="append", default=[], metavar="NAME:=VALUE",
                      help="a parameter, written as for ros2 run -p; may be repeated")
    node.add_argument("--urdf", type=Path, metavar="FILE",
                      help="robot description, where none was recorded")
    bag = parser.add_argument_group("bag")
    bag.add_argument("--remap", action="append", default=[], metavar="FROM:=TO",
                     help="recorded topic for an input of the node, e.g. "
                          "/front/image:=camera/primary/image_raw; may be repeated")
    bag.add_argument("--instruction", metavar="TEXT", help="task, in the place of recorded ones")
    bag.add_argument("--clock", choices=("auto", "bag", "recorded", "stamps"), default="auto",
                     help="time: the bag's /clock, when messages were recorded, or their stamps")
    bag.add_argument("--speed", choices=("lockstep",), default="lockstep",
                     help="lockstep: time goes on when the node has dealt with an input")
    bag.add_argument("--patience", type=float, default=300.0, metavar="S",
                     help="wall seconds that the node may take over one input")
    bag.add_argument("--domain-id", type=int, metavar="N",
                     help="ROS domain to replay in (without it: one of its own, so that no robot "
                          "takes replayed actions for live ones)")
    diff = parser.add_argument_group(
        "comparison", "exit status 0: within the limits, 1: not, 2: wrong usage")
    diff.add_argument("--diff", nargs=2, type=Path, metavar=("A", "B"),
                      help="compare two runs; a bag stands for what its node answered")
    diff.add_argument("--max-action-distance", type=_limit, default=0.0, metavar="X",
                      help="largest absolute difference of an action, in its own units")
    diff.add_argument("--max-token-change", type=_limit, default=0.0, metavar="Y",
                      help="largest relative change of the tokens of a layer; 0 asks for the same "
                           "kept sets")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="write the comparison (or the run's summary) as JSON; - for standard "
                             "output, in the place of the table")


def run(args: argparse.Namespace) -> int:
    if args.json is not None and args.json != STANDARD_OUTPUT:
        from ..analysis.writing import check_output_file

        check_output_file(args.json)
    if args.diff is not None:
        return _diff(args)
    if args.bag is None or args.out is None:
        return _usage("give BAG and --out RUN, or --diff A B")
    if not args.patience > 0:
        return _usage(f"--patience is {args.patience}; it must be > 0 s")
    if args.domain_id is not None and not 0 <= args.domain_id <= 232:
        return _usage(f"--domain-id is {args.domain_id}; it must lie between 0 and 232")
    return _replay(args)


def _replay(args: argparse.Namespace) -> int:
    if find_spec("rclpy") is None:
        raise ConfigurationError("rclpy is not installed: source a ROS 2, or install the wheels "
                                 "with pip install 'specprune_ros[ros]'")
    from ..bringup import stop_on_sigterm
    from .plan import parse_remaps
    from .report import run_lines
    from .run import as_json, write_json
    from .runner import ReplayOptions, replay_bag

    if args.urdf is not None and not args.urdf.is_file():
        raise ConfigurationError(f"--urdf {args.urdf}: there is no such file")
    options = ReplayOptions(
        args.checkpoint, args.pruning, args.device, args.params_file, args.param,
        parse_remaps(args.remap), args.instruction, args.urdf, args.clock, args.patience,
        args.domain_id)
    stop_on_sigterm()
    scratch = tempfile.mkdtemp(prefix="specprune_replay_")
    os.environ.setdefault("ROS_LOG_DIR", scratch)
    try:
        with _progress() as progress:
            outcome = replay_bag(args.bag, args.out, options, progress)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json == STANDARD_OUTPUT:
        sys.stdout.write(as_json(outcome.summary))
        return 0
    lines = [*run_lines(outcome.summary, outcome.queries), *_beside_the_recorded(outcome),
             f"wrote {args.out}"]
    sys.stdout.write("\n".join(lines) + "\n")
    if args.json is not None:
        write_json(args.json, outcome.summary)
    return 0


def _beside_the_recorded(outcome) -> list[str]:
    """What the replay gave, compared with what the bag's own node had given."""
    from .diff import diff_runs
    from .report import diff_lines
    from .run import Run

    lines = []
    before = outcome.summary["bag"]["recorded_with"].get("checkpoint", {}).get("hash")
    if before and before != outcome.summary["checkpoint"]["hash"]:
        lines.append("the checkpoint is not the one that the bag was recorded with")
    if outcome.recorded:
        diff = diff_runs(Run(Path(), {}, outcome.recorded), Run(Path(), {}, outcome.queries))
        lines += [f"beside what was recorded: {line}" for line in diff_lines(diff)]
        missing = len(diff.only_a), len(diff.only_b)
        if any(missing):
            lines.append(f"{missing[0]} recorded queries were not made again, {missing[1]} of the "
                         "replay's were not recorded")
    return lines


def _diff(args: argparse.Namespace) -> int:
    if args.bag is not None or args.out is not None:
        return _usage("--diff compares runs that are there: leave BAG and --out out")
    from rich.console import Console

    from .diff import diff_runs
    from .recorded import load_run
    from .report import diff_json, diff_lines, diff_table
    from .run import as_json, write_json

    try:
        a, b = map(_loaded(load_run), args.diff)
    except ConfigurationError as error:
        return _usage(str(error))
    diff = diff_runs(a, b)
    problems = diff.exceeded(args.max_action_distance, args.max_token_change)
    if args.json == STANDARD_OUTPUT:
        sys.stdout.write(as_json(diff_json(diff, problems)))
        return DIFFERENT if problems else 0
    console = Console(highlight=False)
    console.width = max(console.width, TABLE_WIDTH)
    console.print(diff_table(diff))
    lines = [*diff_lines(diff), *problems, "differs" if problems else "within the limits"]
    console.file.write("\n".join(lines) + "\n")
    if args.json is not None:
        write_json(args.json, diff_json(diff, problems))
    return DIFFERENT if problems else 0


def _loaded(load):
    """Loading with errors of usage: exit status 1 says that runs differ, and nothing else."""
    from ..errors import RecordingError

    def loaded(path: Path):
        try:
            return load(path)
        except RecordingError as error:
            raise ConfigurationError(str(error)) from error

    return loaded


def _progress():
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    @contextmanager
    def bar():
        console = Console(stderr=True)
        with Progress(TextColumn("replaying"), BarColumn(), TaskProgressColumn(),
                      TimeElapsedColumn(), TextColumn("remaining"), TimeRemainingColumn(),
                      console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=1.0)
            yield lambda share: progress.update(task, completed=share)

    return bar()


def _usage(text: str) -> int:
    sys.stderr.write(f"specprune replay: {text}\n")
    return 2


def _limit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"expected a number >= 0, not {text!r}")
    return value
