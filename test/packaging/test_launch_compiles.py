"""Every launch file compiles, also where ROS's launch is not installed."""
from __future__ import annotations

from pathlib import Path

import pytest

LAUNCH_FILES = sorted((Path(__file__).resolve().parents[2] / "launch").glob("*.launch.py"))


def test_there_is_a_launch_file():
    assert LAUNCH_FILES


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda p: p.name)
def test_compiles(path):
    code = compile(path.read_text(), str(path), "exec")
    assert "generate_launch_description" in code.co_names
