"""Stands for LIBERO's environments: MuJoCo with robosuite's arm, made-up pictures, no assets.

What an adapter can get wrong behaves as in LIBERO: resets draw from NumPy's global generator and
may fail, the wrapper's own reset never ends where something else fails, samplers of joints grow
with every load, observables have a clock of their own, the burner's colour changes after a step,
``done`` is about the present state, the quaternion is the environment's own array.
"""
import os
import zlib

import mujoco
import numpy as np
from robosuite.utils.errors import RandomizationError
from robosuite.utils.observables import Observable

from libero.libero import get_assets_path

from .scene import CAMERAS, HOME, scene_of, scene_xml

SUBSTEPS, TIMESTEP = 25, 0.002


class Model:
    def __init__(self, model):
        self._model = model


class Data:
    def __init__(self, data):
        self._data = data


class Sim:
    """As much of robosuite's MjSim as is used; pictures tell what they were taken of."""

    def __init__(self, xml):
        self.model = Model(mujoco.MjModel.from_xml_string(xml))
        self.data = Data(mujoco.MjData(self.model._model))
        self.forward()

    def reset(self):
        mujoco.mj_resetData(self.model._model, self.data._data)

    def forward(self):
        mujoco.mj_forward(self.model._model, self.data._data)

    def step(self):
        mujoco.mj_step(self.model._model, self.data._data)

    def set_state_from_flattened(self, state):
        data = self.data._data
        nq, nv = self.model._model.nq, self.model._model.nv
        assert len(state) == 1 + nq + nv
        data.time, data.qpos[:], data.qvel[:] = state[0], state[1:1 + nq], state[1 + nq:]

    def render(self, camera_name, width, height):
        """uint8 [H, W, 3], the first row at the bottom, as OpenGL has it."""
        RENDERS.append(camera_name)
        data, model = self.data._data, self.model._model
        seen = np.concatenate([data.xpos.ravel(), model.site_rgba.ravel()])
        image = np.empty((height, width, 3), np.uint8)
        image[..., 0] = np.linspace(0, 250, height)[:, None]  # bottom to top
        image[..., 1] = np.linspace(0, 250, width)  # left to right
        image[..., 2] = zlib.crc32(np.round(seen, 7).tobytes() + camera_name.encode()) % 251
        return image


RENDERS = []  # cameras that were drawn


class Manipulation:
    """The environment inside the wrapper (robosuite's MujocoEnv with LIBERO's BDDLBaseDomain)."""

    control_timestep, model_timestep = 1 / 20, TIMESTEP

    def __init__(self, bddl_file_name, camera_heights, camera_widths, horizon=1000):
        self.assets = get_assets_path()
        if not os.path.exists(os.path.join(self.assets, "scenes")):
            raise FileNotFoundError(os.path.join(self.assets, "scenes", "floor.xml"))
        self.scene = scene_of(bddl_file_name)
        self.size = camera_heights, camera_widths
        self.horizon = horizon
        self.object_property_initializers = []
        self._observables, self._obs_cache = {}, {}
        self._load_model()
        self._initialize_sim()
        self._reset_internal()
        self._observables = self._setup_observables()

    def seed(self, seed):
        np.random.seed(seed)

    # ------------------------------------------------------------------ resets

    def _load_model(self):
        self.model = self.scene
        if self.scene.drawer:
            self.object_property_initializers.append(lambda: np.random.uniform(0.0, 0.1))

    def _initialize_sim(self):
        self.sim = Sim(self.model.get_xml())

    def reset(self):
        self._load_model()
        self._initialize_sim()
        self._reset_internal()
        self.sim.forward()
        self._obs_cache = {}
        for name, observable in self._setup_observables().items():
            self.modify_observable(name, "sensor", observable._sensor)
        return self._get_observations(force_update=True)

    def _reset_internal(self):
        self.timestep, self.done = 0, False
        for observable in self._observables.values():
            observable.reset()
        model, data = self.sim.model._model, self.sim.data._data
        data.qpos[:7] = HOME
        for sample in self.object_property_initializers:
            data.joint("drawer").qpos[0] = sample()
        mujoco.mj_step1(model, data)
        # Some places are refused, depending on where the fixture is now: so it is in drawers.
        for _ in range(2):
            place = np.random.uniform(-0.02, 0.02, 2)
            if abs(place[0]) < 0.006 + data.body("stove").xpos[0] - 0.2:
                break
        else:
            raise RandomizationError("no place for the stove")
        model.body_pos[model.body("stove").id][:2] += place
        data.joint("bowl").qpos[:3] = np.random.uniform(-0.1, 0.1, 3)

    # ------------------------------------------------------------------ observations

    def _setup_observables(self):
        data, model = self.sim.data._data, self.sim.model._model
        site, hand = model.site("gripper0_grip_site").id, model.body("robot0_right_hand").id
        sensors = {
            "robot0_joint_pos": lambda: data.qpos[:7],
            "robot0_joint_vel": lambda: data.qvel[:7],
            "robot0_eef_pos": lambda: data.site_xpos[site],
            "robot0_eef_quat": lambda: data.xquat[hand][[1, 2, 3, 0]],
            "robot0_gripper_qpos": lambda: data.qpos[7:9],
            "robot0_gripper_qvel": lambda: data.qvel[7:9],
        }
        height, width = self.size
        for camera in CAMERAS:
            sensors[f"{camera}_image"] = lambda camera=camera: self.sim.render(
                camera_name=camera, width=width, height=height
            )
        return {name: Observable(name, _sensor(read)) for name, read in sensors.items()}

    def modify_observable(self, observable_name, attribute, modifier):
        getattr(self._observables[observable_name], f"set_{attribute}")(modifier)

    def _update_observables(self, force=False):
        for observable in self._observables.values():
            observable.update(self.model_timestep, self._obs_cache, force)

    def _get_observations(self, force_update=False):
        if force_update:
            self._update_observables(force=True)
        return {n: o.obs for n, o in self._observables.items() if o._enabled}

    # ------------------------------------------------------------------ steps

    def step(self, action):
        if self.done:
            raise ValueError("executing action in terminated episode")
        assert len(action) == 7 and isinstance(action, list)
        STEPS.append(list(action))
        self.timestep += 1
        for substep in range(SUBSTEPS):
            self.sim.forward()
            if substep == 0:
                self._set_goal(np.clip(action, -1, 1))
            self.sim.step()
            self._update_observables()
        self.done = self.timestep >= self.horizon
        self._post_process()
        return self._get_observations(), 0.0, self._check_success(), {}

    def _set_goal(self, action):
        """The joints follow a goal of the tool: 0.05 m and 0.5 rad per unit, world axes."""
        model, data = self.sim.model._model, self.sim.data._data
        jacobian = np.zeros((6, model.nv))
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:],
                          model.site("gripper0_grip_site").id)
        jacobian = jacobian[:, :7]
        way = np.concatenate([0.05 * action[:3], 0.5 * action[3:6]])
        damped = jacobian @ jacobian.T + 1e-3 * np.eye(6)
        data.ctrl[:7] = data.qpos[:7] + jacobian.T @ np.linalg.solve(damped, way)
        data.ctrl[7:9] = (0.04, -0.04) if action[6] < 0 else (0.0, 0.0)

    def _post_process(self):
        """The burner glows once the tool has come down; seen from the next step on."""
        model = self.sim.model._model
        model.site_rgba[model.site("burner").id, 3] = float(self._height() < self.scene.glow)

    def _check_success(self):
        return bool(self._height() < self.scene.goal)

    def _height(self):
        """Of the tool above the base."""
        data = self.sim.data._data
        return data.site("gripper0_grip_site").xpos[2] - data.body("robot0_base").xpos[2]

    def close(self):
        CLOSED.append(self.scene.name)


STEPS, CLOSED = [], []


def _sensor(read):
    def sensor(obs_cache):
        return read()

    sensor.__modality__ = "object"
    return sensor


class ControlEnv:
    def __init__(self, bddl_file_name, **kwargs):
        self.env = Manipulation(bddl_file_name, **kwargs)

    def reset(self):
        success = False
        while not success:
            try:
                observation = self.env.reset()
                success = True
            except RandomizationError:
                pass
            finally:
                continue  # noqa: B012
        return observation

    def step(self, action):
        return self.env.step(action)

    def seed(self, seed):
        self.env.seed(seed)

    def check_success(self):
        return self.env._check_success()

    def set_init_state(self, state):
        self.env.sim.set_state_from_flattened(state)
        self.env.sim.forward()
        self.env._post_process()
        self.env._update_observables(force=True)
        return self.env._get_observations()

    def close(self):
        self.env.close()
        del self.env


class OffScreenRenderEnv(ControlEnv):
    pass


__all__ = ["OffScreenRenderEnv", "scene_xml"]
