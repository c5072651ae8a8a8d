"""The commands that README and docs show, and how each is kept true."""
from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: First words of what a reader types into a shell.
_HEADS = re.compile(r"(?:[A-Z_]+=\S+ +)*(?:specprune|make|python3?|pip|ros2|rosdep|colcon|source|"
                    r"export|hf|cp|git|apt-get|mcap|rviz2|rqt|foxglove-studio|scripts/\S+|"
                    r"\S*/bin/\S+)(?= |$)")
_SHELLS = {"", "bash", "sh", "console", "shell"}


@dataclass(frozen=True)
class Command:
    """page, line (1-based) and the text, joined over continuation lines, without comments."""

    page: str
    line: int
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}: {self.text[:70]}"


@dataclass(frozen=True)
class Block:
    """A block of code: language ("" where none is given), line of its first line, lines."""

    language: str
    line: int
    lines: tuple[str, ...]


def pages() -> list[Path]:
    """README and every page of the documentation that somebody wrote."""
    written = [p for p in sorted((ROOT / "docs").rglob("*.md")) if p.parent.name != "reference"]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md", *written]


def blocks(text: str) -> Iterator[Block]:
    """Fenced blocks, and blocks that are indented by four spaces below an empty line."""
    lines = text.split("\n")
    i, empty = 0, True
    while i < len(lines):
        fence = re.fullmatch(r"(`{3,}|:{3,})(.*)", lines[i])
        if fence and fence[1].startswith("`"):
            end = next(j for j in range(i + 1, len(lines)) if lines[j].startswith(fence[1]))
            yield Block(fence[2].strip(), i + 2, tuple(lines[i + 1:end]))
            i = end + 1
        elif empty and lines[i].startswith("    ") and lines[i].strip():
            end = i
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            inside = [line[4:] for line in lines[i:end]]
            while not inside[-1].strip():
                inside.pop()
            yield Block("", i + 1, tuple(inside))
            i, empty = end, True
            continue
        else:
            i += 1
        empty = i > 0 and i <= len(lines) and not lines[i - 1].strip()


def is_shell(block: Block) -> bool:
    """Whether a block holds commands: its first line that is no comment is one."""
    if block.language not in _SHELLS:
        return False
    first = next((x for x in block.lines if x.strip() and not x.startswith("#")), "")
    return bool(_HEADS.match(first))


def statements(block: Block) -> Iterator[tuple[int, str]]:
    """(line, text) of a shell block, continuation lines joined, comments and prompts removed."""
    joined, start = "", 0
    for number, line in enumerate(block.lines, block.line):
        if not joined:
            start = number
        text = re.sub(r"(^|\s)#\s.*$", "", line).rstrip()
        joined = f"{joined} {text.strip()}".strip()
        if joined.endswith("\\"):
            joined = joined[:-1].rstrip()
        elif joined:
            yield start, joined
            joined = ""


def commands(page: Path) -> list[Command]:
    """Every command of a page; ``a && b`` are two."""
    name = page.relative_to(ROOT).as_posix()
    return [Command(name, line, part.strip())
            for block in blocks(page.read_text()) if is_shell(block)
            for line, text in statements(block) for part in text.split(" && ")]


def all_commands() -> list[Command]:
    return [command for page in pages() for command in commands(page)]


def words(command: Command) -> list[str]:
    """Words of a command; [optional parts] count, variables before it do not."""
    plain = re.sub(r"\[(--[^\]]*)\]", r"\1", command.text)
    found = shlex.split(plain)
    while found and re.fullmatch(r"[A-Z_]+=.*", found[0]):
        found.pop(0)
    if found and found[0].endswith("/bin/specprune"):
        found[0] = "specprune"
    return found


# How each command is kept true --------------------------------------------------------------

#: In `make test`, and in `make test-all` only: played page by page, in a scratch folder.
QUICK, SLOW = "quick", "slow"

#: What a command may need that no test machine is sure to have.
NEEDS = ("a robot", "a GPU", "the published weights", "a ROS installation", "LIBERO",
         "installing packages", "results that are not there yet")


@dataclass(frozen=True)
class Test:
    """Another test runs the command: ``file::function`` below test/."""

    where: str


@dataclass(frozen=True)
class Needs:
    """Not run; one of NEEDS says why. Parsed all the same."""

    what: str


#: The first pattern that matches ``page: command`` decides. Whoever adds a command to a page adds a
#: line here, unless one of the general ones at the end is right.
TABLE: tuple[tuple[str, str | Test | Needs], ...] = (
    # environments and packages
    (r": python3 -m venv ", Needs("installing packages")),
    (r": (pip install \./examples|python -m specprune_examples\.watch_stats)$",
     Test("examples/test_examples.py::test_command_finds_pruner_simulator_and_backbone_by_name")),
    (r": (pip|pre-commit|hf|~?\S*/bin/pip|rosdep|apt-get) ", Needs("installing packages")),
    (r": (source|export) ", Needs("installing packages")),
    # make: also parsed, with make -n
    (r": make demo", Test("test_demo_run.py::test_results_have_the_agreed_form")),
    (r": make lint", Test("packaging/test_lint.py::test_ruff")),
    (r": make help", QUICK),
    (r": make train", Test("training/test_training.py::*")),
    (r": (make (test-gpu|bench-gpu|gpu-check)|(\S+ )?scripts/gpu_check\.sh)", Needs("a GPU")),
    (r": make (test|venv|clean|distclean)", Needs("installing packages")),
    # ROS as installed by apt; names, arguments and parameters are checked all the same
    (r": (ros2|rviz2|rqt|foxglove-studio|cp \$\(ros2) ?", Needs("a ROS installation")),
    (r": python3 -m colcon ", Needs("a ROS installation")),
    (r": python -m pytest -m libero ", Needs("LIBERO")),
    (r": python -m specprune_ros --suite libero", Needs("LIBERO")),
    (r": ROS_DOMAIN_ID=0 python -m specprune_ros --no-sim", Needs("a robot")),
    (r": python -m specprune_ros$", Test("test_bringup.py::test_ctrl_c_stops_every_node")),
    # the command of this package
    (r"own-arm\.md: specprune ", Needs("a robot")),
    (r"tutorials/libero\.md: specprune ", Needs("the published weights")),
    (r"--suite libero_", Test(
        "sim/libero_adapter/test_eval.py::test_two_tasks_and_two_trials_of_every_method")),
    (r": specprune eval-table ", Test("eval/test_paper.py::*")),
    (r": specprune .*--device cuda(?!\])", Needs("a GPU")),
    (r"extend\.md: specprune ", Test(
        "examples/test_examples.py::test_command_finds_pruner_simulator_and_backbone_by_name")),
    (r": (ROS_DOMAIN_ID=17 )?specprune record ", Test(
        "replay/test_recorder.py::test_seconds_are_those_of_the_simulated_clock")),
    (r": specprune eval --through-ros ", Test(
        "eval/test_through_ros.py::test_every_episode_is_the_one_in_process")),
    (r": specprune view", Test("*")),
    (r": specprune replay --diff reference new", Test("replay/test_diff.py::*")),
    (r"README\.md: specprune (record-sim|compare|analyze|eval|doctor)", QUICK),
    (r": specprune ", SLOW),
    (r": \.venv/bin/specprune ", SLOW),
)


def treatment(command: Command) -> str | Test | Needs | None:
    """How a command is kept true; None where the table does not say."""
    text = f"{command.page}: {command.text}"
    return next((how for pattern, how in TABLE if re.search(pattern, text)), None)


#: Patterns of commands on pages that a checkout may lack.
NOT_YET = ("specprune view", "gpu-check")


#: Appended to a command that is run: budgets that end within seconds. The last value of an option
#: counts.
SMALL = {
    "eval": "--episodes 2 --max-steps 8",
    "compare": "--max-queries 2",
    "record-sim": "--episodes 1 --max-steps 17",
    "bench": "--model tiny --queries 3",
    "demo": "--seconds 3",
    "collect": "--episodes 2 --workers 1",
    "train": "--samples 4 --batch 2 --vision-share 0 --image-size 112 --size layers=2",
    "analyze options": "--max-queries 2",
    "analyze hitrate": "--max-queries 2",
    "analyze sensitivity": "--max-queries 2",
    "analyze ablation": "--max-queries 2 --episodes 1 --max-steps 8",
    "analyze overhead": "--max-queries 2",
    "analyze roofline": "--max-queries 2",
    "analyze thresholds": "--max-queries 2 --episodes 1 --max-steps 8 --factors 1",
}

#: What stands for something of the reader's.
PLACEHOLDERS = {"DIR": "{tiny}", "SUITE": "tabletop", "METHODS": "off,random_keep",
                "FILE": "file{line}.json"}


def to_run(command: Command, tiny: Path) -> list[str]:
    """Arguments of ``specprune`` for a run: placeholders filled, budgets small."""
    required = re.sub(r" \[--[^\]]*\]", "", command.text)  # synopses show options in brackets
    found = words(Command(command.page, command.line, required))[1:]
    found = [PLACEHOLDERS.get(word, word) for word in found]
    for name, stands_for in (("{tiny}", tiny), ("{line}", command.line)):
        found = [word.replace(name, str(stands_for)) for word in found]
    name = found[0] if found[0] != "analyze" else " ".join(found[:2])
    return [*found, *SMALL.get(name, "").split()]
