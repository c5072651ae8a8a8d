#!/usr/bin/env python3
"""Make docs/reference/ from the code: parameters of the nodes, messages, services, commands.

    .venv/bin/python scripts/make_reference.py [--check]

The pages are committed, so that the documentation builds without ROS; ``test/docs`` compares them
with fresh ones. ``--check`` writes nothing and ends with status 1 where they differ.
"""
from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the code beside this script, whatever is installed

from specprune_ros import bringup, cli  # noqa: E402

FOLDER = ROOT / "docs/reference"
#: Help that begins with the name of a value, which is not capitalised: "cpu or cuda", "a: dense".
NAME_FIRST = re.compile(r"cpu or |(a|static|lockstep|muon): |\w+=|\w+, \w+, ")
GENERATED = "<!-- Made by scripts/make_reference.py: change the code, then `make reference`. -->\n"


def pages() -> dict[str, str]:
    """File name -> content of every generated page."""
    return {
        "parameters.md": parameters_page(),
        "messages.md": messages_page(),
        "commands.md": commands_page(),
    }

ABOUT = {
    "vla_node": "The policy; its parameters of the method are those of the presets, one by one.\n",
    "chunk_player_node": "Turns chunks into what a controller takes: [robot](../robot.md).\n",
    "sim_bridge_node": "A simulator behind the topics of a robot.\n",
}


# Parameters --------------------------------------------------------------------------------


def parameters_page() -> str:
    from specprune_ros.ros.parameters import Change
    from specprune_ros.ros.player_parameters import PLAYER_PARAMETERS
    from specprune_ros.ros.sim_parameters import SIM_BRIDGE_PARAMETERS
    from specprune_ros.ros.vla_parameters import VLA_PARAMETERS

    text = [
        GENERATED, "# Parameters\n",
        "Of the nodes, as they declare them. `config/vla.yaml` sets those that are often changed. "
        "Arrays are checked element by element. `ros2 param describe` shows the same.\n",
        "| changed | meaning |\n|---|---|",
        *(f"| {change.name.lower()} | {change.value} |" for change in Change), "",
    ]
    for node, specs in (("vla_node", VLA_PARAMETERS), ("chunk_player_node", PLAYER_PARAMETERS),
                        ("sim_bridge_node", SIM_BRIDGE_PARAMETERS)):
        text += [f"## {node}\n", ABOUT[node],
                 "| name | type | default | range | changed | meaning |",
                 "|---|---|---|---|---|---|", *map(parameter_row, specs), ""]
        if node == "vla_node":
            text += preset_table(VLA_PARAMETERS)
    return "\n".join(text)


def preset_table(specs) -> list[str]:
    """What choosing each preset sets."""
    from specprune_ros.pruning.presets import PRESETS
    from specprune_ros.ros.vla_parameters import VlaSettings

    presets = {name: VlaSettings.started({"pruning": name}) for name in PRESETS}
    names = [spec.name for spec in specs if spec.derived and spec.name != "custom_base"]
    return ["### Presets\n", "What a value of `pruning` sets. [The method](../method.md) says why "
            "they differ.\n",
            "| name | " + " | ".join(f"`{preset}`" for preset in presets) + " |",
            "|---|" + "---|" * len(presets),
            *(f"| `{name}` | " + " | ".join(value(s[name]) for s in presets.values()) + " |"
              for name in names), ""]


def parameter_row(spec) -> str:
    if spec.choices:
        allowed = ", ".join(f"`{choice}`" for choice in spec.choices)
    elif spec.low is not None:
        allowed = f"{number(spec.low)} to {number(spec.high)}"
    else:
        allowed = ""
    default = "of the preset" if spec.derived else f"`{value(spec.default)}`"
    kind = spec.type.name.lower().replace("_array", "[]")
    return (f"| `{spec.name}` | {kind} | {default} | {allowed} | {spec.change.name.lower()} "
            f"| {cell(spec.description)} |")


def value(given: object) -> str:
    if isinstance(given, tuple):
        return "[" + ", ".join(map(value, given)) + "]"
    if isinstance(given, bool):
        return str(given).lower()
    return f'"{given}"' if isinstance(given, str) else number(given)


def number(given: float) -> str:
    return f"{given:.10g}" if isinstance(given, float) else str(given)


# Messages ----------------------------------------------------------------------------------


def messages_page() -> str:
    text = [GENERATED, "# Messages and services\n",
            "The comments are the specification. Topics and QoS: "
            "[architecture](../architecture.md).\n"]
    for path in [*sorted((ROOT / "msg").glob("*.msg")), *sorted((ROOT / "srv").glob("*.srv"))]:
        text += [f"## {path.stem}\n", "```", path.read_text().rstrip(), "```\n"]
    return "\n".join(text)


# Commands ----------------------------------------------------------------------------------


def commands_page() -> str:
    text = [GENERATED, "# Commands\n",
            "`specprune COMMAND --help` shows the same. Exit status: 0 done, 1 an error that is "
            "named (or a comparison or check that failed), 2 wrong usage, 130 interrupted.\n"]
    for command in cli.COMMANDS:
        parser = subparser(cli.build_parser(command.name), command.name)
        text += command_section(f"specprune {command.name}", parser, 2)
    text += command_section("python -m specprune_ros", bringup.build_parser(), 2)
    return "\n".join(text)


def command_section(name: str, parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """Heading, description and a table of arguments; then the same of every sub-command."""
    yield f"{'#' * level} {name}\n"
    yield f"{cell(parser.description or '')}\n"
    rows, inner = [], []
    for group in parser._action_groups:
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                inner += action.choices.items()
            elif not isinstance(action, argparse._HelpAction):
                rows.append(argument_row(action))
    if rows:
        yield "| argument | default | meaning |\n|---|---|---|"
        yield from rows
        yield ""
    for sub, subparser_ in inner:
        yield from command_section(f"{name} {sub}", subparser_, level + 1)


def argument_row(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    taken = "" if action.nargs == 0 or not action.option_strings else metavar(action)
    default = action.default
    quiet = default is None or default is False or default in ("", argparse.SUPPRESS, [])
    if isinstance(default, (list, tuple)):
        default = " ".join(map(str, default))
    shown = "required" if action.required and action.option_strings else (
        "" if quiet or action.nargs == 0 else f"`{default}`")
    choices = ""
    if action.choices is not None:
        choices = " One of " + ", ".join(f"`{choice}`" for choice in action.choices) + "."
    meaning = cell(expanded(action)) + ("." if choices and action.help else "") + choices
    return f"| `{(names + ' ' + taken).strip()}` | {shown} | {meaning} |"


def metavar(action: argparse.Action) -> str:
    name = action.metavar or action.dest.upper()
    names = " ".join(name) if isinstance(name, tuple) else str(name)
    if action.nargs in ("+", "*"):
        return f"{names} ..."
    return names


def expanded(action: argparse.Action) -> str:
    fields = {name: field for name, field in vars(action).items() if field is not argparse.SUPPRESS}
    text = (action.help or "") % fields if action.help else ""
    if NAME_FIRST.match(text):
        return text
    return text[:1].upper() + text[1:]


def subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices[name]
    raise LookupError(name)


def cell(text: str) -> str:
    """Text for a cell of a table; names in angle brackets are no HTML, ~/ no markup."""
    text = re.sub(r"\s+", " ", text).strip()
    for plain, escaped in (("|", r"\|"), ("<", r"\<"), ("*", r"\*"), ("~", r"\~"), ("_", r"\_"),
                           ("[", r"\["), ("$", r"\$")):
        text = text.replace(plain, escaped)
    return text


# -------------------------------------------------------------------------------------------


def differing(fresh: dict[str, str], folder: Path = FOLDER) -> Iterable[str]:
    """Names of the pages that are missing or other than fresh ones."""
    return [name for name, text in fresh.items()
            if not (folder / name).is_file() or (folder / name).read_text() != text]


def main() -> int:
    parser = argparse.ArgumentParser(description="Make docs/reference/ from the code.")
    parser.add_argument("--check", action="store_true", help="only tell what differs")
    fresh = pages()
    if parser.parse_args().check:
        stale = differing(fresh)
        for name in stale:
            sys.stderr.write(f"docs/reference/{name} is out of date: run `make reference`\n")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for name, text in fresh.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
