"""A world that an untrained policy solves now and then, and sim_bridge_node over it.

Run as a module, it starts the node.
"""
from __future__ import annotations

import sys

import numpy as np

from specprune_ros.sim.tabletop.suites import SUITES
from specprune_ros.sim.tabletop.world import TabletopSimulator

FAR = 0.267  # m


class EasyWorld(TabletopSimulator):
    """The tabletop, solved once the tool is FAR from where it was at the reset."""

    def reset(self, task, init_state, render=True):
        first = super().reset(task, init_state, render)
        self._start = first.proprio[:3]
        return first

    def success(self):
        return bool(np.linalg.norm(self._proprio()[:3] - self._start) > FAR)


def make(suite, render_size=256, view=False):
    return EasyWorld(SUITES[suite], render_size, view)


if __name__ == "__main__":
    from specprune_ros.ros.sim_bridge_node import main

    sys.exit(main(make=make))
