"""Every command of README and docs is run by a test, or marked with what it needs."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from commands import (  # noqa: E402
    NEEDS,
    NOT_YET,
    QUICK,
    ROOT,
    SLOW,
    TABLE,
    Command,
    Needs,
    all_commands,
    blocks,
    commands,
    is_shell,
    pages,
    statements,
    to_run,
    treatment,
    words,
)
from commands import Test as Elsewhere  # noqa: E402

from specprune_ros import bringup, cli  # noqa: E402

ALL = all_commands()


def ids(command: Command) -> str:
    return command.id


# What the pages say --------------------------------------------------------------------------


def test_commands_are_found_in_indented_and_fenced_blocks(tmp_path):
    text = ("text\n\n    specprune doctor   # look\n    specprune eval \\\n        --json a.json\n"
            "\n```bash\nmake demo && make test\n```\n\n```python\nmake = 3\n```\n\n    a -> b\n")
    shells = [block for block in blocks(text) if is_shell(block)]
    assert [s for block in shells for _, s in statements(block)] == [
        "specprune doctor", "specprune eval --json a.json", "make demo && make test"]
    assert [block.line for block in shells] == [3, 8]


def test_many_commands_are_there():
    assert len(ALL) > 100 and {c.page for c in ALL} >= {"README.md", "docs/replay.md"}


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_block_holds_commands_or_none(page):
    """A block that starts with a command holds nothing else, one that does not holds none."""
    for block in blocks(page.read_text()):
        found = [is_shell(type(block)("", line, (text,))) for line, text in statements(block)]
        if is_shell(block):
            assert all(found), f"{page.name}:{block.line}: add the first word to commands.py"
        elif block.language == "":
            assert not any(found), f"{page.name}:{block.line}: commands below something else"


@pytest.mark.parametrize("command", ALL, ids=ids)
def test_every_command_has_a_place_in_the_table(command):
    how = treatment(command)
    assert how is not None, "say in test/docs/commands.py how it is kept true"
    if isinstance(how, Needs):
        assert how.what in NEEDS
    if isinstance(how, Elsewhere) and how.where != "*":
        file, _, function = how.where.partition("::")
        source = (ROOT / "test" / file).read_text()
        assert function == "*" or f"def {function}(" in source, how.where


def test_every_line_of_the_table_is_used():
    texts = [f"{c.page}: {c.text}" for c in ALL]
    for pattern, _ in TABLE:
        if any(name in pattern for name in NOT_YET):
            continue
        assert any(re.search(pattern, text) for text in texts), pattern


# What they would do --------------------------------------------------------------------------


OURS = [c for c in ALL if words(c)[0] == "specprune"]


@pytest.mark.parametrize("command", OURS, ids=ids)
def test_the_parser_takes_every_specprune_command(command, capsys):
    argv = [{"SUITE": "tabletop"}.get(word, word) for word in words(command)[1:]]
    if argv[argv.index("--suite") + 1:][:1] == ["touch"] if "--suite" in argv else False:
        argv[argv.index("--suite") + 1] = "tabletop"  # known once examples/ is installed
    try:
        cli.build_parser(argv[0]).parse_args(argv)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


@pytest.mark.parametrize("command", [c for c in ALL if " -m specprune_ros" in c.text], ids=ids)
def test_the_parser_takes_every_bring_up(command):
    own, _ = bringup.split_ros_args(words(command)[3:])
    bringup.build_parser().parse_args(own)


@pytest.mark.parametrize("command", [c for c in ALL if words(c)[0] == "make"], ids=ids)
def test_make_knows_every_target(command):
    result = subprocess.run(["make", "-n", *words(command)[1:]], cwd=ROOT, capture_output=True,
                            text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "command", [c for c in ALL if c.text.startswith("ros2 launch specprune_ros")], ids=ids)
def test_launch_files_know_every_argument(command):
    _, _, _, file, *given = words(command)
    source = (ROOT / "launch" / file).read_text()
    known = set(re.findall(r"DeclareLaunchArgument\(\s*'(\w+)'", source))
    known |= {argument.name for argument in bringup.ARGUMENTS}
    if "vla.launch.py" in source and file != "vla.launch.py":  # what it includes
        known |= set(re.findall(r"DeclareLaunchArgument\(\s*'(\w+)'",
                                (ROOT / "launch/vla.launch.py").read_text()))
    for word in given:
        if word != "--show-args":
            assert word.partition(":=")[0] in known, word


@pytest.mark.parametrize(
    "command", [c for c in ALL if re.match("ros2 (param|run specprune|topic echo)", c.text)],
    ids=ids)
def test_ros2_commands_name_what_is_there(command):
    pytest.importorskip("rclpy")
    from specprune_ros.ros.player_parameters import PLAYER_PARAMETERS
    from specprune_ros.ros.sim_parameters import SIM_BRIDGE_PARAMETERS
    from specprune_ros.ros.vla_parameters import VlaSettings

    specs = {"/vla_node": VlaSettings.specs, "/chunk_player_node": PLAYER_PARAMETERS,
             "/sim_bridge_node": SIM_BRIDGE_PARAMETERS}
    _, verb, what, *rest = words(command)
    if verb == "run":
        assert f"{rest[0]} = specprune_ros." in (ROOT / "setup.py").read_text()
    elif verb == "topic":
        topic = rest[-1].removeprefix("/")
        interface = (ROOT / "docs/architecture.md").read_text()
        assert f"`{topic}`" in interface, topic
    elif what in ("get", "set"):
        assert rest[1] in {spec.name for spec in specs[rest[0]]}, rest[1]


def test_values_that_the_tutorial_sets_are_taken_and_the_wrong_one_is_refused():
    pytest.importorskip("rclpy")
    from specprune_ros.errors import ConfigurationError
    from specprune_ros.ros.vla_parameters import VlaSettings

    settings, page = VlaSettings.started({}), ROOT / "docs/tutorials/rqt.md"
    for command in commands(page):
        if command.text.startswith("ros2 param set"):
            name, text = words(command)[4:]
            value = float(text) if text[0].isdigit() else text
            try:
                settings = settings.changed({name: value})
            except ConfigurationError as veto:
                assert str(veto) in page.read_text().replace("\n> ", " ")
                break
    else:
        pytest.fail("the page shows no refusal")
    assert settings["pruning"] == "custom"


# What they do ----------------------------------------------------------------------------------


def of_page(page: str, kind: str) -> list[Command]:
    return [c for c in ALL if c.page == page and treatment(c) == kind]


def argv_of(command: Command) -> list[str]:
    if words(command)[0] == "make":
        return ["make", "-C", str(ROOT), *words(command)[1:]]
    return [sys.executable, "-m", "specprune_ros.cli",
            *to_run(command, ROOT / "models/specprune-tiny")]


def run(argv: list[str], command: Command, folder: Path, environment: dict[str, str]) -> None:
    result = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True,
                            timeout=1500)
    # 1 is also the answer of a comparison that found differences.
    fine = (0, 1) if "--diff" in argv else (0,)
    assert result.returncode in fine, f"{command.id}\n{result.stdout[-2000:]}{result.stderr}"


@pytest.fixture
def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}


def pages_with(kind: str) -> list[str]:
    return sorted({c.page for c in ALL if treatment(c) == kind})


@pytest.mark.parametrize("page", pages_with(QUICK))
def test_quick_commands_run(page, tmp_path, environment, monkeypatch):
    """In this process, which has imported what they need."""
    monkeypatch.chdir(tmp_path)
    for command in of_page(page, QUICK):
        argv = argv_of(command)
        if argv[0] == "make":
            run(argv, command, tmp_path, environment)
        else:
            assert cli.main(argv[3:]) == 0, command.id


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", pages_with(SLOW))
def test_slow_commands_run(page, tmp_path, environment):
    """As a reader runs them: in order, each a process, in one folder."""
    for name in ("bag", "out/bag", "my_bag", "test_bag"):  # what a reader has recorded
        shutil.copytree(ROOT / "test/data/tabletop_bag", tmp_path / name)
    (tmp_path / "models").symlink_to(ROOT / "models")  # of the clone that the reader is in
    for command in of_page(page, SLOW):
        run(argv_of(command), command, tmp_path, environment)
