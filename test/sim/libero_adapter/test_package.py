"""The installed package: what is missing is named with its remedy, nothing is asked or loaded."""
from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from specprune_ros.errors import SimulatorError
from specprune_ros.sim import make_simulator
from specprune_ros.sim.libero.init_states import read_init_states
from specprune_ros.sim.libero.suites import ASSETS_VARIABLE

INSTALL = r"pip install 'hf-libero==0\.1\.4' 'mujoco<3\.9'.*SPECPRUNE_LIBERO_PYTHON="


def goal():
    return make_simulator("libero_goal", render_size=16)


def states_file(installed) -> Path:
    return installed.package / "init_files" / "libero_goal" / "open_the_drawer.pruned_init"


def test_without_libero_the_remedy_is_named(environment, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not Path(p, "libero").exists()])
    with pytest.raises(SimulatorError, match=f"not installed in this environment: {INSTALL}"):
        goal()


@pytest.mark.parametrize("name, version, message", [
    ("mujoco", "3.9.0", "mujoco 3.9.0 is here"),
    ("mujoco", "4.0.0", "mujoco 4.0.0 is here"),
    ("robosuite", "1.5.2", "robosuite 1.5.2 is here; LIBERO needs 1.4"),
])
def test_versions_that_fail_are_refused(copied, name, version, message):
    copied.distribution(name, version)
    with pytest.raises(SimulatorError, match=f"{message}.*{INSTALL}"):
        goal()


def test_a_missing_robosuite_is_named(copied, monkeypatch):
    copied.distribution("robosuite", None)
    monkeypatch.setattr(sys, "path", [p for p in sys.path
                                      if not list(Path(p).glob("robosuite-*.dist-info"))])
    with pytest.raises(SimulatorError, match="LIBERO needs robosuite"):
        goal()


def test_a_libero_that_cannot_be_imported_is_named(copied):
    (copied.package / "__init__.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(SimulatorError, match="libero.libero cannot be imported.*no_such_module"):
        goal()


def test_a_missing_config_is_made_in_a_place_of_our_own(libero, tmp_path):
    make = ("from specprune_ros.sim import make_simulator; import os\n"
            "make_simulator('libero_goal')\n"
            "print(os.environ['LIBERO_CONFIG_PATH'])\n"
            "print(open(os.environ['LIBERO_CONFIG_PATH'] + '/config.yaml').read())")
    done = subprocess.run(
        [sys.executable, "-c", make], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(libero.path), os.getcwd()])},
    )
    assert done.returncode == 0, done.stderr
    folder, *lines = done.stdout.splitlines()
    assert f"init_states: '{libero.package}/init_files'" in lines
    assert not Path(folder).exists()  # gone with the process
    assert not (tmp_path / "home").exists()


def test_a_config_that_is_there_is_used_as_it_is(config):
    before = os.environ["LIBERO_CONFIG_PATH"]
    goal()
    assert os.environ["LIBERO_CONFIG_PATH"] == before


def test_a_config_of_another_place_does_not_lead_there(config, tmp_path):
    """A moved environment leaves its old paths in ~/.libero."""
    Path(os.environ["LIBERO_CONFIG_PATH"], "config.yaml").write_text(
        f"bddl_files: {tmp_path}/gone\ninit_states: {tmp_path}/gone\n")
    simulator = goal()
    simulator.reset(0, 0)
    simulator.close()


def test_missing_assets_are_named_before_anything_is_built(copied):
    shutil.rmtree(copied.package / "assets")
    simulator = goal()
    with pytest.raises(SimulatorError) as raised:
        simulator.reset(0, 0)
    message = str(raised.value)
    assert "assets' is not there" in message and ".cache/libero/assets' is not there" in message
    assert "hf download lerobot/libero-assets --repo-type dataset --local-dir" in message
    assert ASSETS_VARIABLE in message


def test_incomplete_assets_are_named(copied):
    shutil.rmtree(copied.package / "assets" / "scenes")
    with pytest.raises(SimulatorError, match="has no scenes.*hf download"):
        goal().reset(0, 0)


def test_assets_may_lie_in_liberos_cache_or_be_named(copied, monkeypatch):
    cache = Path(os.environ["HOME"], ".cache", "libero", "assets")
    cache.parent.mkdir(parents=True)
    shutil.move(copied.package / "assets", cache)
    simulator = goal()
    simulator.reset(0, 0)
    assert simulator._env._env.env.assets == str(cache)
    named = cache.parent / "named"
    shutil.copytree(cache, named)
    monkeypatch.setenv(ASSETS_VARIABLE, str(named))
    simulator.reset(1, 0)
    assert simulator._env._env.env.assets == str(named)
    simulator.close()
    monkeypatch.setenv(ASSETS_VARIABLE, str(cache.parent / "nowhere"))
    with pytest.raises(SimulatorError, match="nowhere' is not there. Get them once"):
        simulator.reset(0, 0)


def test_what_fails_while_building_names_the_task_and_the_assets(libero, monkeypatch, make):
    simulator = make("libero_goal")

    def fail(*_arguments, **_settings):
        raise ValueError("Error opening file 'bowl.msh'")

    import importlib
    monkeypatch.setattr(
        importlib.import_module("libero.libero.envs"), "OffScreenRenderEnv", fail)
    with pytest.raises(SimulatorError, match="building 'open_the_drawer' failed.*bowl.msh.*assets"):
        simulator.reset(0, 0)
    with pytest.raises(SimulatorError, match="call reset"):
        simulator.step(np.zeros(7))


def test_resets_are_bounded_and_only_lack_of_room_is_tried_again(make, envs, monkeypatch):
    simulator = make("libero_goal")
    simulator.reset(0, 0)
    attempts = []

    def fails(error):
        def reset(self):
            attempts.append(error)
            raise error
        monkeypatch.setattr(envs.Manipulation, "reset", reset)

    fails(envs.RandomizationError("full"))
    with pytest.raises(SimulatorError, match="no place.*20 attempts"):
        simulator.reset(0, 1)
    assert len(attempts) == 20
    attempts.clear()
    fails(RuntimeError("no GL context"))
    with pytest.raises(SimulatorError, match="reset failed .RuntimeError: no GL context"):
        simulator.reset(0, 1)
    assert len(attempts) == 1


def test_another_arm_is_refused(copied):
    scene = copied.package / "envs" / "scene.py"
    scene.write_text(scene.read_text().replace('"0 -0.316 0"', '"0 -0.317 0"'))
    with pytest.raises(SimulatorError, match="not the Panda of robosuite 1.4"):
        goal().reset(0, 0)


def test_pictures_of_another_convention_are_refused(copied):
    (copied.path / "robosuite" / "macros.py").write_text('IMAGE_CONVENTION = "opencv"\n')
    with pytest.raises(SimulatorError, match="IMAGE_CONVENTION is 'opencv'"):
        goal().reset(0, 0)


def test_initial_states_of_another_scene_are_refused(copied):
    shutil.copy(copied.package / "init_files" / "libero_object" / "pick_up_the_milk.pruned_init",
                states_file(copied))
    with pytest.raises(SimulatorError, match="an initial state has 32 numbers and the scene needs"):
        goal().reset(0, 0)


# --- files


def test_files_outside_the_package_are_not_read(copied, tmp_path):
    elsewhere = tmp_path / "elsewhere.pruned_init"
    shutil.move(states_file(copied), elsewhere)
    states_file(copied).symlink_to(elsewhere)
    with pytest.raises(SimulatorError, match="lies outside the LIBERO package"):
        goal()


def test_a_missing_file_is_named(copied):
    states_file(copied).unlink()
    with pytest.raises(SimulatorError, match="open_the_drawer.pruned_init' is missing"):
        goal()


def archive(path: Path, content: bytes, member: str = "archive/data.pkl") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(member, content)
    return path


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "bad.pruned_init", pickle.dumps(Harmful()))
    with pytest.raises(SimulatorError, match=r"mkdir has no place in an initial state"):
        read_init_states(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("content", [
    np.zeros(5), np.zeros((5, 2), np.float32), np.full((5, 2), np.nan), [1.0], None,
])
def test_what_is_no_table_of_states_is_refused(tmp_path, content):
    path = archive(tmp_path / "odd.pruned_init", pickle.dumps(content))
    with pytest.raises(SimulatorError, match="odd.pruned_init"):
        read_init_states(path)


def test_broken_files_are_named(tmp_path):
    whole = archive(tmp_path / "whole", pickle.dumps(np.zeros((50, 9))))
    assert read_init_states(whole).shape == (50, 9)
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:200])
    for path in (cut, tmp_path / "gone", archive(tmp_path / "other", b"", "archive/version")):
        with pytest.raises(SimulatorError, match=path.name):
            read_init_states(path)


def test_states_of_numpy_1_and_2_are_read(tmp_path):
    states = np.random.default_rng(0).normal(size=(50, 7))
    content = pickle.dumps(states, 2)  # the protocol of torch.save
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        path = archive(tmp_path / "states", content.replace(b"numpy._core.multiarray", name))
        assert np.array_equal(read_init_states(path), states)
