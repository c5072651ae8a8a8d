"""A small world, and sim_bridge_node over it as a process of its own.

Run as a script: ``sim_bridge_fakes.py --ros-args ...`` starts the node. The world is a point that
moves by the first three action components; an episode succeeds when the point's x exceeds 1.
"""
import sys

import numpy as np

from specprune_ros.sim.base import SimObservation

PERIOD = 0.05
INSTRUCTIONS = ("pick up the red cube", "pick up the blue cube")
URDF = '<robot name="point"><link name="base"/></robot>'


class PointWorld:
    """Follows the Simulator protocol; images show the step in their first pixel."""

    control_period = PERIOD
    max_steps = 20
    base_frame = "base"
    tool_frame = "tool"
    tasks = INSTRUCTIONS

    def __init__(self, suite, render_size=256, view=False):
        self.suite = suite
        self._size = render_size
        self._task = 0

    @property
    def instruction(self):
        return INSTRUCTIONS[self._task]

    def reset(self, task, init_state):
        self._task = init_state % 2 if task is None else task
        self._steps = 0
        self._actions = np.zeros(7)
        return self.observe()

    def observe(self, render=True):
        image = np.zeros((self._size, self._size, 3), np.uint8)
        image[0, 0] = self._steps
        position = self._actions[:3]
        return SimObservation(
            stamp=self._steps * PERIOD,
            images={"primary": image, "wrist": image[::-1].copy()} if render else {},
            proprio=np.zeros(8), joint_names=("x", "y", "z", "gripper"),
            joint_positions=np.array([*position, self._actions[6]]),
            joint_velocities=np.zeros(4), ee_twist=np.zeros(6))

    def step(self, action):
        action = np.clip(action, -1.0, 1.0)
        self._actions[:6] += action[:6]
        self._actions[6] = action[6]
        self._steps += 1
        return self.success()

    def success(self):
        return bool(self._actions[0] > 1.0)

    def robot_description(self):
        return URDF

    def close(self):
        self.closed = True


if __name__ == "__main__":
    from specprune_ros.ros.sim_bridge_node import main

    sys.exit(main(make=PointWorld))
