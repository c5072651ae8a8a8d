"""The double of LIBERO, importable in this process."""
from __future__ import annotations

import importlib
import shutil

import pytest
from libero_double import Installed, forget, write_config

from specprune_ros.sim import make_simulator
from specprune_ros.sim.libero.suites import ASSETS_VARIABLE, PYTHON_VARIABLE


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """No LIBERO settings, and a home of its own."""
    for name in (PYTHON_VARIABLE, ASSETS_VARIABLE, "LIBERO_CONFIG_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return monkeypatch


@pytest.fixture
def libero(libero_site, environment, monkeypatch) -> Installed:
    """The double, importable here. Not to be changed."""
    monkeypatch.syspath_prepend(str(libero_site))
    forget()
    yield Installed(libero_site)
    forget()


@pytest.fixture
def copied(libero_site, environment, monkeypatch, tmp_path) -> Installed:
    """A copy of the double, importable here, to be changed."""
    path = tmp_path / "copy"
    shutil.copytree(libero_site, path)
    monkeypatch.syspath_prepend(str(path))
    forget()
    yield Installed(path)
    forget()


@pytest.fixture
def config(libero, monkeypatch, tmp_path):
    """With a config.yaml, as whoever imports LIBERO by himself needs it."""
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(write_config(libero, tmp_path / "config")))


@pytest.fixture
def make(libero):
    """``make(suite, size)``; simulators are closed afterwards."""
    made = []

    def build(suite="libero_spatial", size=32):
        made.append(make_simulator(suite, render_size=size))
        return made[-1]

    yield build
    for simulator in made:
        simulator.close()


@pytest.fixture
def envs(config):
    """Counters of the double: STEPS, RENDERS, CLOSED, from empty."""
    module = importlib.import_module("libero.libero.envs")
    for counter in (module.STEPS, module.RENDERS, module.CLOSED):
        counter.clear()
    return module
