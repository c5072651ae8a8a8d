"""docs/reference is what the code says: made anew, it is the same."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

pytest.importorskip("rclpy")
import make_reference  # noqa: E402


@pytest.fixture(scope="module")
def fresh():
    return make_reference.pages()


def test_committed_pages_are_up_to_date(fresh):
    assert not make_reference.differing(fresh), "run `make reference`, and commit the pages"


def test_a_changed_or_missing_page_is_noticed(fresh, tmp_path):
    for name, text in fresh.items():
        (tmp_path / name).write_text(text)
    assert not make_reference.differing(fresh, tmp_path)
    (tmp_path / "messages.md").write_text(fresh["messages.md"].replace("float64 dt", "float32 dt"))
    (tmp_path / "commands.md").unlink()
    assert make_reference.differing(fresh, tmp_path) == ["messages.md", "commands.md"]


def test_every_parameter_message_and_command_is_there(fresh):
    from specprune_ros import cli
    from specprune_ros.ros.vla_parameters import VLA_PARAMETERS
    for spec in VLA_PARAMETERS:
        assert f"| `{spec.name}` |" in fresh["parameters.md"]
    for path in (*(ROOT / "msg").glob("*.msg"), *(ROOT / "srv").glob("*.srv")):
        assert f"## {path.stem}\n" in fresh["messages.md"]
    for command in cli.COMMANDS:
        assert f"## specprune {command.name}\n" in fresh["commands.md"]
    assert "### specprune analyze hitrate\n" in fresh["commands.md"]


def test_no_path_of_this_machine_is_in_the_pages(fresh):
    for text in fresh.values():
        assert str(ROOT) not in text and str(Path.home()) not in text
