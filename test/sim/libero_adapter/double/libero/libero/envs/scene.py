"""The scenes of the double: robosuite's Panda by its own numbers, a stove, a bowl, a drawer."""
import os
import zlib
from dataclasses import dataclass

import numpy as np

CAMERAS = ("agentview", "robot0_eye_in_hand")
HOME = (0.0, -0.161037389, 0.0, -2.44459747, 0.0, 2.22675220, np.pi / 4)

# robots/panda/robot.xml of robosuite 1.4: body, offset, quaternion (w x y z)
_LINKS = (
    ("link1", "0 0 0.333", "1 0 0 0"),
    ("link2", "0 0 0", "0.707107 -0.707107 0 0"),
    ("link3", "0 -0.316 0", "0.707107 0.707107 0 0"),
    ("link4", "0.0825 0 0", "0.707107 0.707107 0 0"),
    ("link5", "-0.0825 0.384 0", "0.707107 -0.707107 0 0"),
    ("link6", "0 0 0", "0.707107 0.707107 0 0"),
    ("link7", "0.088 0 0", "0.707107 0.707107 0 0"),
)
_HAND = """
<body name="robot0_right_hand" pos="0 0 0.1065" quat="0.924 0 0 -0.383">{inertia}
 <body name="gripper0_right_gripper" quat="0.707107 0 0 -0.707107">
  <body name="gripper0_eef" pos="0 0 0.097"><site name="gripper0_grip_site"/></body>
  <body name="gripper0_leftfinger" pos="0 0 0.0524" quat="0.707107 0 0 0.707107">{inertia}
   <joint name="gripper0_finger_joint1" axis="0 1 0" type="slide" range="0 0.04"
    limited="true" armature="1" damping="40"/></body>
  <body name="gripper0_rightfinger" pos="0 0 0.0524" quat="0.707107 0 0 0.707107">{inertia}
   <joint name="gripper0_finger_joint2" axis="0 1 0" type="slide" range="-0.04 0"
    limited="true" armature="1" damping="40"/></body>
 </body>
</body>"""
_INERTIA = '<inertial pos="0 0 0" mass="0.5" diaginertia="0.01 0.01 0.01"/>'
# Where LIBERO puts the base: beside a table, on the floor, at a low table, at a desk.
BASES = {"table": (-0.66, 0.0, 0.912), "floor": (-0.6, 0.0, 0.0), "low": (-0.51, 0.0, 0.42),
         "desk": (-0.75, 0.0, 0.912)}


@dataclass(frozen=True)
class Scene:
    """A task. goal, glow: heights of the tool over the base (m) below which it is done, glows."""

    name: str
    base: tuple
    drawer: bool
    goal: float
    glow: float

    def get_xml(self):
        return scene_xml(self)


def scene_of(bddl_file_name):
    """The scene of a task's file, from its name and what it says."""
    name = os.path.basename(bddl_file_name).removesuffix(".bddl")
    with open(bddl_file_name) as file:
        text = file.read()
    kind = next(kind for kind in BASES if f"(:fixtures {kind}_" in text)
    goal = 0.17 + 0.01 * (zlib.crc32(name.encode()) % 3)
    return Scene(name, BASES[kind], "(open drawer" in text, goal, goal + 0.03)


def scene_xml(scene):
    links = "".join(
        f'<body name="robot0_{name}" pos="{pos}" quat="{quat}">{_INERTIA}'
        f'<joint name="robot0_joint{number}" axis="0 0 1" armature="2" damping="60"/>'
        for number, (name, pos, quat) in enumerate(_LINKS, 1)
    ) + _HAND.format(inertia=_INERTIA) + "</body>" * len(_LINKS)
    drawer = ('<body name="cabinet"><joint name="drawer" type="slide" axis="1 0 0"/>'
              f"{_INERTIA}</body>") if scene.drawer else ""
    names = [f"robot0_joint{i}" for i in range(1, 8)]
    motors = "".join(f'<position joint="{name}" kp="450"/>' for name in names) + "".join(
        f'<position joint="gripper0_finger_joint{i}" kp="400"/>' for i in (1, 2))
    return f"""<mujoco><option timestep="0.002" gravity="0 0 0"/><worldbody>
<body name="robot0_base" pos="{' '.join(map(str, scene.base))}"><body name="robot0_link0">{links}
</body></body>
<body name="stove" pos="0.2 0.1 0">{_INERTIA}<site name="burner" rgba="1 0 0 0"/></body>
{drawer}
<body name="bowl"><freejoint name="bowl"/>{_INERTIA}</body>
</worldbody><actuator>{motors}</actuator></mujoco>"""


def make_states(scene, trials, numbers):
    """Initial states [trials, D] of a scene, as LIBERO's files have them."""
    drawer = int(scene.drawer)
    states = np.zeros((trials, 1 + 9 + drawer + 7 + 9 + drawer + 6))
    states[:, 0] = 0.25
    states[:, 1:8] = np.array(HOME) + numbers.normal(0, 0.02, (trials, 7))
    states[:, 8:10] = 0.02, -0.02
    bowl = 10 + drawer
    states[:, bowl:bowl + 3] = numbers.uniform(-0.1, 0.1, (trials, 3))
    states[:, bowl + 3] = 1.0
    return states
