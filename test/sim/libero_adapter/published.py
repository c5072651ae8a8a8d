"""The loop of the published evaluation, written out: what the adapter has to equal.

It follows run_libero_eval.py and libero_utils.py of OpenVLA-OFT and runs on LIBERO's own interface,
so it serves for the double and for the real package alike.
"""
from __future__ import annotations

import math
from contextlib import suppress

import numpy as np


def play(suite: str, task_number: int, trials: int, actions: np.ndarray, size: int) -> list[list]:
    """Trials 0, 1, ... of a task; of each, what is observed before every action and after the last.

    An observation is (proprio [8], {camera: image}, done).
    """
    from libero.libero import benchmark
    from libero.libero.envs import OffScreenRenderEnv
    from robosuite.utils.errors import RandomizationError

    made = benchmark.get_benchmark(suite)()
    states = made.get_task_init_states(task_number)
    np.random.seed(123)  # whatever the process did before
    env = None
    while env is None:  # the published script would have to be started again
        with suppress(RandomizationError):
            env = OffScreenRenderEnv(bddl_file_name=made.get_task_bddl_file_path(task_number),
                                     camera_heights=size, camera_widths=size)
    env.seed(0)
    found = []
    for trial in range(trials):
        env.reset()
        observation = env.set_init_state(states[trial])
        for _ in range(10):
            observation, _, done, _ = env.step([0, 0, 0, 0, 0, 0, -1])
        seen = [_prepared(observation, done)]
        for action in actions:
            observation, _, done, _ = env.step(action.tolist())
            seen.append(_prepared(observation, done))
        found.append(seen)
    env.close()
    return found


def _prepared(observation, done):
    state = np.concatenate([
        observation["robot0_eef_pos"], _quat2axisangle(observation["robot0_eef_quat"].copy()),
        observation["robot0_gripper_qpos"],
    ])
    images = {
        "primary": observation["agentview_image"][::-1, ::-1].copy(),
        "wrist": observation["robot0_eye_in_hand_image"][::-1, ::-1].copy(),
    }
    return state, images, bool(done)


def _quat2axisangle(quat):
    quat[3] = min(max(quat[3], -1.0), 1.0)
    den = np.sqrt(1.0 - quat[3] * quat[3])
    if math.isclose(den, 0.0):
        return np.zeros(3)
    return quat[:3] * 2.0 * math.acos(quat[3]) / den
