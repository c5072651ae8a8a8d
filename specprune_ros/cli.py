"""The ``specprune`` command: a registry of sub-commands, each in a module of its own.

A sub-command module has ``add_arguments(parser)`` and ``run(args) -> int`` (the exit status) and
is imported only when it is called, so that ``specprune --help`` starts neither torch nor ROS.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from . import __version__
from .errors import SpecpruneError


@dataclass(frozen=True)
class Command:
    """A sub-command: its name, the module that implements it, and one line of help."""

    name: str
    module: str
    help: str


#: Every sub-command, in the order that ``specprune --help`` shows. Add a line to add one.
COMMANDS: tuple[Command, ...] = (
    Command("demo", "specprune_ros.demo",
            "drive the simulated arm over ROS 2 with the pruned policy, and write a video"),
    Command("view", "specprune_ros.view",
            "a page in the browser: cameras, kept patches, charts and sliders of a running node"),
    Command("doctor", "specprune_ros.doctor",
            "check machine, ROS and checkpoint before the policy runs"),
    Command("record", "specprune_ros.replay.record_command",
            "record inputs and outputs of vla_node into a ROS 2 bag (MCAP)"),
    Command("replay", "specprune_ros.replay.command",
            "send a bag through vla_node in lock-step, or compare two such runs"),
    Command("collect", "specprune_ros.training.collect_command",
            "collect demonstrations of the scripted expert in the embedded simulator"),
    Command("train", "specprune_ros.training.train_command",
            "train a small policy in the published format from demonstrations"),
    Command("eval", "specprune_ros.through_ros.command",
            "closed-loop success of pruning methods beside dense, on the same initial states"),
    Command("eval-table", "specprune_ros.eval.table_command",
            "results of eval on LIBERO beside the paper's figures, in the layout of its table"),
    Command("bench", "specprune_ros.bench.command",
            "speed of a query on this device, pruned against dense, as ratios within one run"),
    Command("record-sim", "specprune_ros.analysis.record_sim",
            "record simulated episodes or synthetic streams, one .npz each"),
    Command("bag-to-npz", "specprune_ros.analysis.bag_to_npz",
            "convert a ROS 2 bag to recordings, one .npz per episode"),
    Command("compare", "specprune_ros.analysis.compare",
            "compare pruning methods with dense inference on recorded observations"),
    Command("analyze", "specprune_ros.analysis.analyze",
            "roofline, thresholds, hit rates, overhead, sensitivity, ablation"),
)

_DESCRIPTION = "Token-pruned OpenVLA-OFT policies on ROS 2."
_EPILOG = ("'specprune COMMAND --help' shows the options of a command. "
           "'python -m specprune_ros' starts the nodes and keeps them up until Ctrl-C.")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option where it says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "") or action.default == []:
            return action.help
        return super()._get_help_string(action)


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the sub-command named ``chosen`` is imported and has its options."""
    return _build_parsers(chosen)[0]


def _build_parsers(
    chosen: str | None,
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The parser, and that of the chosen sub-command (the same one if there is none)."""
    parser = argparse.ArgumentParser(prog="specprune", description=_DESCRIPTION, epilog=_EPILOG)
    own = parser
    parser.add_argument("--version", action="version", version=f"specprune_ros {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name, help=command.help, description=_sentence(command.help),
            formatter_class=HelpFormatter)
        if command.name == chosen:
            module = import_module(command.module)
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
            own = sub
    return parser, own


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status: 2 for wrong usage, 1 for an error that was named."""
    argv = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    parser, own = _build_parsers(chosen)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        # By the sub-command's parser where there is one, so that its usage is shown.
        own.error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return int(args.run(args) or 0)
    except SpecpruneError as error:
        sys.stderr.write(f"specprune {args.command}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"specprune {args.command}: interrupted\n")
        return 130


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


if __name__ == "__main__":
    sys.exit(main())
