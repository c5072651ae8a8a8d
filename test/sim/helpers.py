"""Shared by the tests of the simulator."""
import numpy as np

from specprune_ros.sim.tabletop.expert import ScriptedExpert

STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


def action(**parts):
    """An action by the names of its parts: x y z rx ry rz gripper."""
    values = dict.fromkeys(["x", "y", "z", "rx", "ry", "rz"], 0.0) | {"gripper": -1.0} | parts
    return np.array([values[name] for name in ("x", "y", "z", "rx", "ry", "rz", "gripper")])


def same(one, other):
    """Whether two observations are equal bit for bit."""
    arrays = ("proprio", "joint_positions", "joint_velocities", "ee_twist")
    return (
        one.stamp == other.stamp
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
        and list(one.images) == list(other.images)
        and all(np.array_equal(one.images[name], other.images[name]) for name in one.images)
    )


def solve(world, until=None):
    """Let the expert act until success (or until a phase begins); returns the steps taken."""
    expert = ScriptedExpert()
    for steps in range(world.max_steps):
        if expert.phase.name == until:
            return steps
        if world.step(expert.act(world)):
            return steps + 1
    return None
