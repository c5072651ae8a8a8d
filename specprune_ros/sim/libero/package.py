"""The installed LIBERO: whether it can be used, its tasks and files. No environment is built here.

``import libero.libero`` asks questions on standard input where its config.yaml is missing, and
building an environment downloads assets that are missing. Neither happens from here: the config is
made beforehand in a folder of our own, and assets are looked for before anything is built.
"""
from __future__ import annotations

import atexit
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import SimulatorError
from .suites import ASSETS_VARIABLE, PYTHON_VARIABLE

INSTALL = (
    "pip install 'hf-libero==0.1.4' 'mujoco<3.9' (pip extra 'libero'), or set "
    f"{PYTHON_VARIABLE}=/path/to/venv/bin/python of an environment that has them"
)
DOWNLOAD = (
    "hf download lerobot/libero-assets --repo-type dataset --local-dir ~/.cache/libero/assets"
)
_MUJOCO_BELOW = (3, 9)  # robosuite 1.4 asserts on joint types that later releases compare otherwise
_ROBOSUITE = (1, 4)
_ASSET_FOLDERS = (
    "articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "textures",
    "turbosquid_objects",
)


@dataclass(frozen=True)
class LiberoTask:
    """A task of a suite. scene: tasks with the same text differ only in what is asked for."""

    instruction: str
    bddl_file: Path
    init_file: Path
    scene: str


@dataclass(frozen=True)
class LiberoPackage:
    """The installed package. folder: of ``libero.libero``. versions: of what decides an episode."""

    folder: Path
    versions: str

    def tasks(self, suite: str) -> tuple[LiberoTask, ...]:
        """Tasks of a suite in the published order. Raises SimulatorError."""
        benchmark = _import("libero.libero.benchmark")
        with redirect_stdout(io.StringIO()):  # it prints the order
            made = benchmark.get_benchmark(suite)()
        return tuple(self._task(made.get_task(i)) for i in range(made.get_num_tasks()))

    def _task(self, task: Any) -> LiberoTask:
        # The package's own files, whatever a config.yaml from elsewhere says.
        bddl = self._own("bddl_files", task.problem_folder, task.bddl_file)
        init = self._own("init_files", task.problem_folder, task.init_states_file)
        return LiberoTask(task.language.lower(), bddl, init, scene_of(bddl.read_text()))

    def _own(self, *parts: str) -> Path:
        path = self.folder.joinpath(*parts)
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise SimulatorError(f"'{path}' lies outside the LIBERO package: not read")
        if not path.is_file():
            raise SimulatorError(f"LIBERO's file '{path}' is missing: {INSTALL}")
        return path

    def use_assets(self) -> Path:
        """Have LIBERO take the assets that are here. SimulatorError with the remedy if none are."""
        assets, module = find_assets(self.folder), _import("libero.libero")
        if hasattr(module, "get_assets_path"):
            module._assets_path_cache = str(assets)  # it would download otherwise
        elif assets != self.folder / "assets":
            raise SimulatorError(
                f"this LIBERO reads its assets from '{self.folder / 'assets'}' only: link "
                f"'{assets}' there, or {INSTALL}"
            )
        return assets


def find_package() -> LiberoPackage:
    """The LIBERO of this environment.

    Raises SimulatorError, with what to install, if it is missing or cannot work.
    """
    spec = importlib.util.find_spec("libero")
    folder = Path(next(iter(spec.submodule_search_locations or ("",)))) / "libero" if spec else None
    if folder is None or not (folder / "benchmark").is_dir():
        raise SimulatorError(f"LIBERO is not installed in this environment: {INSTALL}")
    versions = _check_versions()
    _prepare_config(folder)
    _import("libero.libero")
    return LiberoPackage(folder, versions)


def scene_of(bddl: str) -> str:
    """What stands where at the start, from a task's text: regions, fixtures, objects, init."""
    sections = [_section(bddl, name) for name in ("regions", "fixtures", "objects", "init")]
    return " ".join(" ".join(sections).split())


def _section(text: str, name: str) -> str:
    start = text.find(f"(:{name}")
    depth = 0
    for at in range(max(start, 0), len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at + 1] if start >= 0 else ""
    return ""


def find_assets(folder: Path) -> Path:
    """Absolute path of LIBERO's assets: named by the user, inside the package, or in its cache."""
    named = os.environ.get(ASSETS_VARIABLE)
    places = [Path(named).expanduser()] if named else [
        folder / "assets", Path("~/.cache/libero/assets").expanduser()
    ]
    trouble = []
    for place in places:
        missing = [name for name in _ASSET_FOLDERS if not (place / name).is_dir()]
        if not missing:
            return place.absolute()
        what = f"has no {', '.join(missing)}" if place.is_dir() else "is not there"
        trouble.append(f"'{place}' {what}")
    raise SimulatorError(
        f"LIBERO's assets (200 MB, not part of its package) are missing: {'; '.join(trouble)}. "
        f"Get them once: {DOWNLOAD} (or set {ASSETS_VARIABLE} to a copy)"
    )


def _check_versions() -> str:
    """Versions of what decides an episode, as text. Raises SimulatorError for one that fails."""
    found = {}
    for name in ("hf-libero", "libero", "robosuite", "mujoco"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in ("robosuite", "mujoco"):
                raise SimulatorError(
                    f"LIBERO needs {name}, which is not installed here: {INSTALL}"
                ) from None
    if _numbers(found["mujoco"]) >= _MUJOCO_BELOW:
        raise SimulatorError(
            f"mujoco {found['mujoco']} is here, and LIBERO's robosuite cannot build a world with "
            f"3.9 or later: {INSTALL}"
        )
    if _numbers(found["robosuite"]) != _ROBOSUITE:
        raise SimulatorError(
            f"robosuite {found['robosuite']} is here; LIBERO needs 1.4: {INSTALL}"
        )
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _prepare_config(folder: Path) -> None:
    """See to it that ``import libero.libero`` finds a config.yaml and asks nothing."""
    place = Path(os.environ.get("LIBERO_CONFIG_PATH", "~/.libero")).expanduser()
    if (place / "config.yaml").is_file():
        return
    private = Path(tempfile.mkdtemp(prefix="specprune-libero-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    names = {"benchmark_root": "", "bddl_files": "bddl_files", "init_states": "init_files",
             "datasets": "../datasets", "assets": "assets"}
    lines = [f"{key}: '{str(folder / name).replace(chr(39), 2 * chr(39))}'"
             for key, name in names.items()]
    (private / "config.yaml").write_text("\n".join(lines) + "\n")
    os.environ["LIBERO_CONFIG_PATH"] = str(private)


def _import(name: str) -> ModuleType:
    """Import a module of LIBERO. Raises SimulatorError, whatever goes wrong in it."""
    try:
        with redirect_stdout(io.StringIO()):
            return importlib.import_module(name)
    except Exception as error:
        raise SimulatorError(
            f"{name} cannot be imported ({type(error).__name__}: {error}): {INSTALL}"
        ) from error
