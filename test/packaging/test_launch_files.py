"""Launch files compile everywhere, and describe something where ROS's launch is installed."""
from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import pytest

LAUNCH_FILES = sorted((Path(__file__).resolve().parents[2] / "launch").glob("*.launch.py"))


def ros_launch_is_installed() -> bool:
    return importlib.util.find_spec("launch_ros") is not None


def test_there_is_a_launch_file():
    assert LAUNCH_FILES


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda p: p.name)
def test_compiles(path):
    code = compile(path.read_text(), str(path), "exec")
    assert "generate_launch_description" in code.co_names


@pytest.mark.skipif(not ros_launch_is_installed(), reason="ROS's launch is not installed")
@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda p: p.name)
def test_describes_something(path):
    assert runpy.run_path(str(path))["generate_launch_description"]().entities
