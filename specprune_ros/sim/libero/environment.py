"""The environment of one LIBERO task, driven as the published loop drives it."""
from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import mujoco
import numpy as np

from ...errors import SimulatorError
from ...robot.gripper import OPEN
from ...robot.rotations import quaternion_to_axis_angle, quaternion_to_matrix
from ..base import SimObservation
from ..gl import REMEDY, choose_backend
from .arm import BASE_JOINTS, JOINT_NAMES, check_arm
from .cameras import DeferredCameras
from .init_states import read_init_states
from .package import DOWNLOAD, LiberoPackage, LiberoTask
from .resets import ResetStream, build
from .suites import WAIT_STEPS

_WAIT_ACTION = [0.0] * 6 + [OPEN]
_ARM = [f"robot0_joint{i}" for i in range(1, 8)]
_FINGERS = ["gripper0_finger_joint1", "gripper0_finger_joint2"]
_BASE_BODY = "robot0_link0"
_TOOL_SITE = "gripper0_grip_site"


class TaskEnvironment:
    """LIBERO's OffScreenRenderEnv of a task. One per process at a time, and one thread."""

    def __init__(self, package: LiberoPackage, task: LiberoTask, render_size: int) -> None:
        """Raises SimulatorError for missing assets and for whatever fails in LIBERO."""
        self._states = read_init_states(task.init_file)
        assets = package.use_assets()
        choose_backend()  # before robosuite reads MUJOCO_GL, which it does once
        with _named(f"building '{task.bddl_file.stem}' failed", _advice(assets)):
            envs = importlib.import_module("libero.libero.envs")
            macros = importlib.import_module("robosuite.macros")
            errors = importlib.import_module("robosuite.utils.errors")
            if macros.IMAGE_CONVENTION != "opengl":
                raise SimulatorError(
                    f"robosuite's IMAGE_CONVENTION is '{macros.IMAGE_CONVENTION}', and LIBERO's "
                    "data was made with 'opengl': set it back in robosuite's macros_private.py"
                )
            self._env = build(lambda: envs.OffScreenRenderEnv(
                bddl_file_name=str(task.bddl_file),
                camera_heights=render_size, camera_widths=render_size,
            ), errors.RandomizationError)
        self._resets = ResetStream(self._env.env, errors.RandomizationError)
        self._cameras = DeferredCameras(self._env.env)

    def reset(self, trial: int) -> None:
        """Begin a trial, wait steps included."""
        with _named("reset failed"):
            self._resets.reset(trial)
            self._cameras.install()
            self._index()
            state = self._states[trial]
            wanted = 1 + self._model.nq + self._model.nv
            if len(state) != wanted:
                raise SimulatorError(
                    f"an initial state has {len(state)} numbers and the scene needs {wanted}: "
                    "LIBERO's code, init files and assets are of different versions"
                )
            self._env.set_init_state(state)
            for _ in range(WAIT_STEPS):
                self._observed, *_ = self._env.step(_WAIT_ACTION)
        self._check_arm()

    def step(self, action: np.ndarray) -> bool:
        """One control period; returns whether the task is done."""
        with _named("step failed"):
            self._observed, _, done, _ = self._env.step(action.tolist())
        return bool(done)

    def success(self) -> bool:
        """Whether the task is done in the present state."""
        return bool(self._env.check_success())

    def observe(self, stamp: float, render: bool) -> SimObservation:
        """What LIBERO's observables say; images are drawn only with ``render``."""
        images = {}
        if render:
            with _named("rendering failed", REMEDY):
                images = self._cameras.draw()
        positions, velocities = self._joints()
        return SimObservation(
            stamp=stamp,
            images=images,
            proprio=self._proprio(),
            joint_names=JOINT_NAMES,
            joint_positions=positions,
            joint_velocities=velocities,
            ee_twist=self._twist(velocities),
        )

    def close(self) -> None:
        """Free the physics and the OpenGL context."""
        with _named("closing failed"):
            self._env.close()

    # ------------------------------------------------------------------ parts

    def _index(self) -> None:
        model = self._model = self._cameras.model
        joints = [model.joint(name) for name in (*_ARM, *_FINGERS)]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._base, self._site = model.body(_BASE_BODY).id, model.site(_TOOL_SITE).id

    def _proprio(self) -> np.ndarray:
        seen = self._observed
        return np.concatenate([
            seen["robot0_eef_pos"],
            # The quaternion with the sign it has, as in the data; a copy is made there.
            quaternion_to_axis_angle(seen["robot0_eef_quat"]),
            seen["robot0_gripper_qpos"],
        ]).astype(np.float64)

    def _joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities [12] of JOINT_NAMES, in agreement with the observed tool pose.

        After a physics step MuJoCo's poses are those from before it, its joint positions those
        from after. The step that lies between is taken back, but for the fingers, which LIBERO
        itself reports as they are.
        """
        data = self._cameras.seen
        positions, velocities = data.qpos[self._qpos].copy(), data.qvel[self._dofs].copy()
        positions[:7] -= self._model.opt.timestep * velocities[:7]
        positions[8], velocities[8] = -positions[8], -velocities[8]  # robosuite's axis is reversed
        base = data.xpos[self._base]
        return (np.concatenate([base, positions]),
                np.concatenate([np.zeros(len(BASE_JOINTS)), velocities]))

    def _twist(self, velocities: np.ndarray) -> np.ndarray:
        jacobian = np.zeros((6, self._model.nv))
        mujoco.mj_jacSite(
            self._model, self._cameras.seen, jacobian[:3], jacobian[3:], self._site
        )
        return jacobian[:, self._dofs[:7]] @ velocities[3:10]

    def _check_arm(self) -> None:
        seen = self._observed
        check_arm(dict(zip(JOINT_NAMES, self._joints()[0])), seen["robot0_eef_pos"],
                  quaternion_to_matrix(seen["robot0_eef_quat"]))


def _advice(assets: Any) -> str:
    return f"if a file is missing, the assets in '{assets}' are incomplete: {DOWNLOAD}"


@contextmanager
def _named(what: str, advice: str = "") -> Iterator[None]:
    """Name what LIBERO was doing when it failed, and keep its prints off standard output."""
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except SimulatorError:
        raise
    except Exception as error:
        raise SimulatorError(
            f"LIBERO: {what} ({type(error).__name__}: {error})" + (f"; {advice}" if advice else "")
        ) from error
