"""A simulator: a tool on three linear axes above a table with two discs, drawn with NumPy.

    pip install ./examples
    specprune eval --suite touch --methods off --episodes 2 --max-steps 16 --json out.json

The task is to touch the disc that the instruction names. No checkpoint was trained for it.
"""
from __future__ import annotations

import numpy as np

from specprune_ros.errors import ConfigurationError, SimulatorError
from specprune_ros.sim import SimObservation

COLOURS = {"red": (200, 40, 40), "blue": (40, 70, 210)}
HALF = 0.3  # m, half of the side of the table
RADIUS, LOW = 0.04, 0.02  # m: a disc; the tool touches below this height
OPEN = 0.04  # m, travel of a finger
LIMITS = np.array([[-HALF, -HALF, 0.0], [HALF, HALF, 0.3]])

# Forward kinematics by this must give the pose of the proprio; the fingers are those that the
# parameter gripper.joints names.
_AXIS = """<joint name="{name}" type="prismatic"><parent link="{parent}"/><child link="{child}"/>
<axis xyz="{axis}"/><limit lower="{low}" upper="{high}" velocity="2" effort="100"/></joint>"""
_LINKS = "".join(f'<link name="{n}"/>' for n in ("table", "x", "y", "tool", "left", "right"))
URDF = f'<robot name="touch">{_LINKS}' + "".join(
    _AXIS.format(name=name, parent=parent, child=child, axis=axis, low=low, high=high)
    for name, parent, child, axis, low, high in (
        ("slide_x", "table", "x", "1 0 0", -HALF, HALF),
        ("slide_y", "x", "y", "0 1 0", -HALF, HALF),
        ("slide_z", "y", "tool", "0 0 1", 0, 0.3),
        ("panda_finger_joint1", "tool", "left", "0 1 0", 0, OPEN),
        ("panda_finger_joint2", "tool", "right", "0 -1 0", 0, OPEN))) + "</robot>"
JOINTS = ("slide_x", "slide_y", "slide_z", "panda_finger_joint1", "panda_finger_joint2")


class TouchWorld:
    """Follows specprune_ros.sim.Simulator."""

    suite = "touch"
    control_period = 0.05  # s
    max_steps = 100
    base_frame = "table"  # an attribute of the class: it is asked for before a world is built
    tool_frame = "tool"
    tasks = tuple(f"touch the {colour} disc" for colour in COLOURS)
    trials = None  # any number is an initial state
    versions = "touch 1"  # goes into the records of an evaluation

    def __init__(self, render_size: int = 256, view: bool = False) -> None:
        if view:
            raise SimulatorError("suite 'touch' has no window: leave out view")
        self._size = render_size
        self.reset(0, 0)

    @property
    def instruction(self) -> str:
        return self.tasks[self._task]

    def reset(self, task: int | None, init_state: int) -> SimObservation:
        draw = np.random.default_rng(init_state)
        self._task = init_state % len(self.tasks) if task is None else task
        if not 0 <= self._task < len(self.tasks):
            raise ConfigurationError(f"suite 'touch' has tasks 0 to {len(self.tasks) - 1}")
        # One disc in each half of the table, so that they never overlap.
        self._discs = draw.uniform(-0.2, 0.2, (2, 2)) * (1.0, 0.5) + [[0.0, -0.15], [0.0, 0.15]]
        self._tool = np.array([0.0, 0.0, 0.2])
        self._velocity, self._finger, self._steps = np.zeros(3), OPEN, 0
        return self.observe()

    def step(self, action: np.ndarray) -> bool:
        """Action [7]: translation in units of 0.05 m, rotation (there is none here), gripper."""
        motion = 0.05 * np.clip(np.asarray(action, np.float64)[:3], -1.0, 1.0)
        before = self._tool
        self._tool = np.clip(before + motion, *LIMITS)
        self._velocity = (self._tool - before) / self.control_period
        self._finger = OPEN if action[6] < 0 else 0.0  # -1 open, +1 close
        self._steps += 1
        return self.success()

    def success(self) -> bool:
        away = np.linalg.norm(self._tool[:2] - self._discs[self._task])
        return bool(away < RADIUS and self._tool[2] < LOW)

    def observe(self, render: bool = True) -> SimObservation:
        fingers = [self._finger, self._finger]
        images = {"primary": self._draw((0.0, 0.0), HALF),
                  "wrist": self._draw(self._tool[:2], 0.1)} if render else {}
        return SimObservation(
            stamp=self._steps * self.control_period,
            images=images,
            proprio=np.array([*self._tool, 0.0, 0.0, 0.0, self._finger, -self._finger]),
            joint_names=JOINTS,
            joint_positions=np.array([*self._tool, *fingers]),
            joint_velocities=np.array([*self._velocity, 0.0, 0.0]),
            ee_twist=np.array([*self._velocity, 0.0, 0.0, 0.0]),
        )

    def robot_description(self) -> str:
        return URDF

    def close(self) -> None:
        """There is nothing to release."""

    def _draw(self, centre: tuple[float, float], half: float) -> np.ndarray:
        """uint8 [S, S, 3]: the table from above, x upward."""
        reach = np.linspace(half, -half, self._size)
        x, y = np.meshgrid(reach + centre[0], reach + centre[1], indexing="ij")
        picture = np.full((self._size, self._size, 3), (170, 140, 110), np.uint8)
        for (disc_x, disc_y), colour in zip(self._discs, COLOURS.values()):
            picture[np.hypot(x - disc_x, y - disc_y) < RADIUS] = colour
        tool = np.maximum(abs(x - self._tool[0]), abs(y - self._tool[1])) < 0.012
        picture[tool] = 235 - int(300 * self._tool[2])  # the higher, the darker
        return picture
