"""A checkpoint that can be spoiled, and policies of the shipped one."""
from __future__ import annotations

import json
import shutil

import pytest

from specprune_ros.policy import load_policy


@pytest.fixture
def copy(tiny_dir, tmp_path):
    """A writable copy of the shipped checkpoint."""
    target = tmp_path / "checkpoint"
    shutil.copytree(tiny_dir, target)
    return target


@pytest.fixture
def edit():
    """Changes a JSON file in place: edit(path, lambda content: ...)."""
    def change(path, function):
        content = json.loads(path.read_text())
        function(content)
        path.write_text(json.dumps(content))

    return change


@pytest.fixture(scope="session")
def policy(tiny_dir):
    return load_policy(tiny_dir)
