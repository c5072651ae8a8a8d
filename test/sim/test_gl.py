import os
import subprocess
import sys

import pytest

from specprune_ros.errors import SimulatorError
from specprune_ros.sim import gl, make_simulator


@pytest.fixture
def unset(monkeypatch):
    """No choice made yet. Restores the variable that choose_backend sets."""
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    return monkeypatch


@pytest.mark.parametrize(("egl", "osmesa", "chosen"), [
    (True, True, "egl"), (True, False, "egl"), (False, True, "osmesa"),
])
def test_egl_comes_before_osmesa_and_the_choice_is_exported(unset, egl, osmesa, chosen):
    unset.setattr(gl, "_egl_works", lambda: egl)
    unset.setattr(gl, "_osmesa_works", lambda: osmesa)
    assert gl.choose_backend() == chosen
    assert os.environ["MUJOCO_GL"] == chosen


def test_neither_names_the_packages(unset):
    unset.setattr(gl, "_egl_works", lambda: False)
    unset.setattr(gl, "_osmesa_works", lambda: False)
    with pytest.raises(SimulatorError, match="libegl1.*libosmesa6"):
        gl.create_context(8, 8)
    assert os.environ["MUJOCO_GL"] == ""


def test_a_process_bound_to_one_platform_is_not_offered_the_other(unset):
    unset.setenv("PYOPENGL_PLATFORM", "osmesa")
    unset.setattr(gl, "_egl_works", lambda: True)
    unset.setattr(gl, "_osmesa_works", lambda: True)
    assert gl.choose_backend() == "osmesa"


def test_the_users_choice_is_respected(unset):
    unset.setenv("MUJOCO_GL", "OSMesa")
    unset.setattr(gl, "_egl_works", lambda: pytest.fail("not asked"))
    assert gl.choose_backend() == "osmesa"


def test_rendering_switched_off_is_an_error_only_when_an_image_is_wanted(unset):
    unset.setenv("MUJOCO_GL", "off")
    simulator = make_simulator("tabletop")
    simulator.reset(None, 0, render=False)
    with pytest.raises(SimulatorError, match="disabled by MUJOCO_GL=off"):
        simulator.observe()
    simulator.close()


def test_a_broken_backend_is_reported_with_the_packages(unset):
    def broken(name):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    unset.setenv("MUJOCO_GL", "egl")
    unset.setattr(gl.importlib, "import_module", broken)
    with pytest.raises(SimulatorError, match="MUJOCO_GL=egl failed .*eglQueryString.*libosmesa6"):
        gl.create_context(8, 8)


def test_window_needs_a_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SimulatorError, match="view=True needs a display"):
        make_simulator("tabletop", view=True)


SCRIPT = """
{before}
from specprune_ros.sim import make_simulator
simulator = make_simulator("tabletop", render_size=32)
print("image", simulator.reset(None, 0).images["wrist"].shape)
{after}
"""


def run(before="", after="simulator.close()", **variables):
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    environment.pop("PYOPENGL_PLATFORM", None)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before, after=after)],
        env=environment | variables, capture_output=True, text=True, timeout=120,
    )


def test_renders_headless_without_settings_whoever_imported_mujoco_first():
    done = run(before="import mujoco")
    assert done.returncode == 0, done.stderr
    assert "image (32, 32, 3)" in done.stdout
    assert done.stderr == ""


def test_a_simulator_that_is_never_closed_ends_quietly():
    done = run(after="other = make_simulator('tabletop_hard'); other.reset(None, 0)")
    assert done.returncode == 0 and done.stderr == ""


def test_a_wrong_setting_is_a_clear_error():
    done = run(MUJOCO_GL="nonsense")
    assert done.returncode != 0
    assert "SimulatorError: MuJoCo cannot be imported" in done.stderr
    assert "check MUJOCO_GL=nonsense" in done.stderr
