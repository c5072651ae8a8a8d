"""LIBERO's suites as the published evaluations play them. Nothing here needs LIBERO itself.

Numbers are those of OpenVLA-OFT's ``experiments/robot/libero/run_libero_eval.py``.
"""
from __future__ import annotations

#: Control periods per episode, wait steps not counted.
MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
SUITES = tuple(MAX_STEPS)

TRIALS = 50  # initial states of each task
WAIT_STEPS = 10  # with open gripper and no motion, while things settle
ENV_SEED = 0  # of every environment: it decides where fixtures stand
CONTROL_PERIOD = 0.05  # s, 20 Hz

#: Poses of LIBERO are those in the world, where the arm's base stands at different places.
BASE_FRAME = "world"
TOOL_FRAME = "panda_hand_tcp"

#: Environment variable: the Python of an environment that has LIBERO, to run it as a process.
PYTHON_VARIABLE = "SPECPRUNE_LIBERO_PYTHON"
#: Environment variable: a folder with LIBERO's assets.
ASSETS_VARIABLE = "SPECPRUNE_LIBERO_ASSETS"
