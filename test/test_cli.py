"""The specprune command: its registry, lazy imports, exit statuses."""
import subprocess
import sys
from importlib import import_module

import pytest

from specprune_ros import __version__, cli
from specprune_ros.errors import ConfigurationError

HEAVY = ("torch", "rclpy", "transformers", "mujoco", "numpy", "cv2", "rich")


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    result = python(
        "import sys\nfrom specprune_ros import cli\n"
        f"try:\n    cli.main({arguments})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not heavy, heavy")
    assert result.returncode == 0, result.stderr


def test_help_lists_every_command_with_its_line(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for command in cli.COMMANDS:
        assert command.name in shown
        assert command.help in shown


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_every_command_has_its_two_functions_and_a_parser(command):
    module = import_module(command.module)
    assert callable(module.run)
    assert cli.build_parser(command.name)  # add_arguments ran without a clash
    assert command.help[0].islower() or not command.help[0].isalpha()
    assert not command.help.endswith(".")


def test_command_names_are_unique():
    names = [command.name for command in cli.COMMANDS]
    assert len(set(names)) == len(names)


def test_without_a_command_help_is_shown_and_the_status_is_2(capsys):
    assert cli.main([]) == 2
    assert "demo" in capsys.readouterr().out


def test_an_unknown_command_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["dance"])
    assert end.value.code == 2
    assert "dance" in capsys.readouterr().err


def test_an_unknown_option_shows_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["demo", "--bogus"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: specprune demo ")
    assert "unrecognized arguments: --bogus" in error


class FakeCommand:
    """A command module whose run() does what ``behaviour`` says."""

    def __init__(self, behaviour):
        self.run = behaviour

    @staticmethod
    def add_arguments(parser):
        parser.add_argument("--number", type=int, default=4)


def register(monkeypatch, behaviour):
    monkeypatch.setitem(sys.modules, "fake_command", FakeCommand(behaviour))
    monkeypatch.setattr(cli, "COMMANDS", (cli.Command("fake", "fake_command", "do something"),))


def test_a_command_gets_its_arguments_and_gives_the_exit_status(monkeypatch):
    register(monkeypatch, lambda args: args.number)
    assert cli.main(["fake", "--number", "7"]) == 7
    assert cli.main(["fake"]) == 4


def test_a_named_error_is_one_line_and_status_1(monkeypatch, capsys):
    def fail(_args):
        raise ConfigurationError("no such thing; use another")

    register(monkeypatch, fail)
    assert cli.main(["fake"]) == 1
    assert capsys.readouterr().err == "specprune fake: no such thing; use another\n"


def test_ctrl_c_is_status_130(monkeypatch):
    def interrupt(_args):
        raise KeyboardInterrupt

    register(monkeypatch, interrupt)
    assert cli.main(["fake"]) == 130
