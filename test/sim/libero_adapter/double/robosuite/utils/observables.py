"""Stands for robosuite 1.4's Observable: sampled once per period, at a moment of its own."""
import numpy as np


class Observable:
    def __init__(self, name, sensor, sampling_rate=20):
        self.name = name
        self._sensor = sensor
        self._sampling_timestep = 1.0 / sampling_rate
        self._enabled = True
        self._check()
        self._time_since_last_sample = 0.0
        self._current_observed_value = np.zeros(self._data_shape)
        self._sampled = False

    def update(self, timestep, obs_cache, force=False):
        if not self._enabled:
            return
        self._time_since_last_sample += timestep
        due = not self._sampled and self._sampling_timestep >= self._time_since_last_sample
        if due or force:
            self._current_observed_value = np.array(self._sensor(obs_cache))
            obs_cache[self.name] = np.array(self._current_observed_value)
            self._sampled = True
        if self._time_since_last_sample >= self._sampling_timestep:
            self._time_since_last_sample %= self._sampling_timestep
            self._sampled = False

    def reset(self):
        # Zeros until the next sample: the first image after switching on is black.
        self._time_since_last_sample = 0.0
        self._current_observed_value = np.zeros(self._data_shape)

    def set_enabled(self, enabled):
        self._enabled = enabled
        self.reset()

    def set_sensor(self, sensor):
        self._sensor = sensor
        self._check()

    def _check(self):
        _ = self._sensor.__modality__
        self._data_shape = np.array(self._sensor({})).shape

    @property
    def obs(self):
        return self._current_observed_value
