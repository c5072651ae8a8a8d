"""vla_node as a process with the policy of the tests: fake_vla_process.py --ros-args ...

It starts quickly and needs little CPU.
"""
import sys
from collections import deque

from fake_policy import FakePolicy

from specprune_ros.ros.vla_node import main


class Forgetful(FakePolicy):
    """A policy that does not keep what it was asked, so that it can run for long."""

    def __init__(self, settings, pruned=None):
        super().__init__(settings, pruned)
        self.observations = deque(maxlen=4)

    def make_episode(self):
        self.episodes = [{"number": 0, "queries": 0, "frames": deque(maxlen=4)}]
        return self.episodes[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv, lambda settings, warn: Forgetful(settings)))
