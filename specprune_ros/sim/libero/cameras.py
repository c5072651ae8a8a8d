"""Images of LIBERO's cameras, drawn only when they are asked for and equal to those it would draw.

robosuite draws both cameras in every control period, at the moment its observables are sampled:
one physics step before the end of the period. Switching the observables off in between, or forcing
an update, moves that moment for all observables. So they stay on, with sensors that remember
MuJoCo's data instead of drawing, and a picture is drawn from what was remembered.
"""
from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

#: Our name of a camera -> robosuite's observable.
OBSERVABLES = {"primary": "agentview_image", "wrist": "robot0_eye_in_hand_image"}


class DeferredCameras:
    """The cameras of one environment. env: the one inside LIBERO's wrapper."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._sensors: dict[str, Any] = {}

    def install(self) -> None:
        """Take the sensors' place; after each reset, which makes new ones and a new model."""
        self.model, self._data = self._env.sim.model._model, self._env.sim.data._data
        self.seen = mujoco.MjData(self.model)  # what the observables saw
        self._aside = mujoco.MjData(self.model)
        for number, (camera, name) in enumerate(OBSERVABLES.items()):
            self._sensors[camera] = self._env._observables[name]._sensor
            # All observables are sampled together, so one of the cameras remembers for both.
            sensor = _sensor(self._remember if number == 0 else lambda: None)
            self._env.modify_observable(observable_name=name, attribute="sensor", modifier=sensor)

    def draw(self) -> dict[str, np.ndarray]:
        """Images uint8 [H, W, 3] by camera, turned by 180 degrees as policies expect them."""
        shown = self.model.site_rgba.copy()
        mujoco.mj_copyData(self._aside, self.model, self._data)
        try:
            mujoco.mj_copyData(self._data, self.model, self.seen)
            self.model.site_rgba[:] = self._site_rgba
            return {camera: np.ascontiguousarray(sensor({})[::-1, ::-1])
                    for camera, sensor in self._sensors.items()}
        finally:
            mujoco.mj_copyData(self._data, self.model, self._aside)
            self.model.site_rgba[:] = shown

    def _remember(self) -> None:
        mujoco.mj_copyData(self.seen, self.model, self._data)
        self._site_rgba = self.model.site_rgba.copy()  # a burner glows by its site's colour


def _sensor(remember: Any) -> Any:
    """A sensor as robosuite wants it: a function of the cache with a modality."""
    def sensor(_cache: Any) -> np.ndarray:
        remember()
        return np.zeros((1, 1, 3), np.uint8)

    sensor.__modality__ = "image"
    return sensor
