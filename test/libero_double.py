"""A double of LIBERO, installed in a folder of its own, for this process or another one."""
from __future__ import annotations

import importlib
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

DOUBLE = Path(__file__).parent / "sim" / "libero_adapter" / "double"
ASSETS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects",
          "textures", "turbosquid_objects")
BDDL = """(define (problem P) (:regions (a (:ranges ((0 0 1 1)))))
 (:fixtures {kind}_1 - {kind})
 (:objects bowl_1 - bowl)
 (:obj_of_interest {name})
 (:init (on bowl_1 {scene}) {drawer})
 (:goal (done {name})))
"""
_KINDS = {"libero_object": "floor", "LIVING": "low", "STUDY": "desk"}


@dataclass
class Installed:
    """A folder to put on the path. versions: of the distributions that are found there."""

    path: Path
    versions: dict = field(default_factory=lambda: {
        "hf-libero": "0.1.4", "robosuite": "1.4.0", "mujoco": "3.8.1"})

    @property
    def package(self) -> Path:
        return self.path / "libero" / "libero"

    def distribution(self, name: str, version: str | None) -> None:
        """Say that a distribution is installed in this version, or not at all."""
        for old in self.path.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(old)
        if version is not None:
            info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n"
                                           f"Version: {version}\n")


def install(path: Path) -> Installed:
    shutil.copytree(DOUBLE, path, ignore=shutil.ignore_patterns("__pycache__"))
    installed = Installed(path)
    for name, version in installed.versions.items():
        installed.distribution(name, version)
    for name in ASSETS:
        (installed.package / "assets" / name).mkdir(parents=True)
    return installed


def write_tasks(installed: Installed) -> None:
    """The files of every task; needs the double on the path."""
    import torch

    benchmark = importlib.import_module("libero.libero.benchmark")
    scene = importlib.import_module("libero.libero.envs.scene")
    for suite, names in benchmark.TASKS.items():
        folders = [installed.package / folder / suite for folder in ("bddl_files", "init_files")]
        for folder in folders:
            folder.mkdir(parents=True)
        for number, name in enumerate(names):
            kind = next((k for n, k in _KINDS.items() if n in (suite, name.split("_")[0])), "table")
            one_scene = suite == "libero_goal"
            # Drawers that are open at the start draw random numbers at every reset.
            drawer = "(open drawer)" if one_scene or "KITCHEN" in name else ""
            bddl = folders[0] / f"{name}.bddl"
            bddl.write_text(BDDL.format(kind=kind, name=name, drawer=drawer,
                                        scene=suite if one_scene else name))
            states = scene.make_states(
                scene.scene_of(bddl), 50, np.random.default_rng([number, len(name)]))
            torch.save(states, folders[1] / f"{name}.pruned_init")


def forget() -> None:
    """Have the next import find LIBERO afresh."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("libero", "robosuite"):
            del sys.modules[name]
    importlib.invalidate_caches()


def prepare(path: Path) -> Path:
    """Install the double with its tasks in ``path``, which must not exist yet."""
    installed = install(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        patch.setenv("LIBERO_CONFIG_PATH", str(write_config(installed, path.parent / "config")))
        forget()
        write_tasks(installed)
        forget()
    return path


def write_config(installed: Installed, folder: Path) -> Path:
    """A config.yaml, as whoever imports LIBERO by himself needs it."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"bddl_files: {installed.package}/bddl_files\n"
                                        f"init_states: {installed.package}/init_files\n")
    return folder
