"""Fixtures of the analysis tests."""
from __future__ import annotations

import pytest
from streams import tiny_stream

from specprune_ros.policy import load_policy


@pytest.fixture(scope="session")
def dense(tiny_dir):
    """A dense policy; tests take others from it and leave it as it is."""
    return load_policy(tiny_dir, pruning="off")


@pytest.fixture(scope="session")
def stream_dir(tmp_path_factory):
    """A folder with one recorded stream of three queries: a moving square."""
    folder = tmp_path_factory.mktemp("stream")
    tiny_stream().save(folder / "square.npz")
    return folder
