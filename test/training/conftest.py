from __future__ import annotations

import pytest

from specprune_ros.training.collect import CollectConfig, collect

COLLECT = CollectConfig(episodes=4, every=12, shard_episodes=1)


@pytest.fixture(scope="session")
def demos(tmp_path_factory):
    """Four episodes of the expert under disturbances, the second of which fails."""
    directory = tmp_path_factory.mktemp("demos")
    assert list(collect(COLLECT, directory)) == [(n, 4) for n in range(5)]
    return directory
