"""What a source distribution and a wheel hold (compiles the messages: slow)."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = {p.stem for p in (ROOT / "msg").glob("*.msg")}
INSTALLED_FOLDERS = ("config", "launch", "models")


def run(*command: str, cwd: Path) -> str:
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(command, cwd=cwd, env={**os.environ, "PATH": tools}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout[-4000:]
    return result.stdout


def share_files() -> set[str]:
    return {path.relative_to(ROOT).as_posix()
            for folder in INSTALLED_FOLDERS for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """A source distribution made of a copy of the checkout."""
    source = tmp_path_factory.mktemp("source") / "specprune_ros"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(
        ".git", ".venv*", "build", "install", "log", "out", "test", "*.egg-info", "__pycache__"))
    for kind in ("msg", "srv"):
        shutil.rmtree(source / "specprune_ros" / kind, ignore_errors=True)
    run(sys.executable, "setup.py", "-q", "sdist", "-d", str(source.parent / "dist"), cwd=source)
    (archive,) = (source.parent / "dist").iterdir()
    return archive


@pytest.mark.slow
def test_sdist_holds_what_the_build_needs(sdist):
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"package.xml", "CMakeLists.txt", "cmake/pip_wheels.cmake", "resource/specprune_ros",
            "pyproject.toml", "setup.cfg", "LICENSE", "CHANGELOG.rst"} <= names
    assert {f"msg/{name}.msg" for name in MESSAGES} | share_files() <= names
    assert "srv/SetInstruction.srv" in names
    assert not {n for n in names if n.endswith(".pyc") or n.startswith((".venv", "test/"))}


@pytest.mark.slow
def test_wheel_made_of_the_sdist_is_complete(sdist, tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "--disable-pip-version-check", "-w", str(tmp_path), str(sdist), cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert "none-any" not in wheel.name  # compiled for this Python and machine
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (archive.read(n).decode() for n in names
                           if n.endswith("/entry_points.txt"))
    data = {n.partition(".data/data/")[2] for n in names if ".data/data/" in n}

    assert {f"share/specprune_ros/{name}" for name in share_files()} <= data
    assert {f"share/specprune_ros/msg/{name}.msg" for name in MESSAGES} <= data
    assert {"share/specprune_ros/package.xml",
            "share/ament_index/resource_index/packages/specprune_ros",
            "share/ament_index/resource_index/rosidl_interfaces/specprune_ros",
            "share/specprune_ros/cmake/specprune_rosConfig.cmake",
            "lib/libspecprune_ros__rosidl_typesupport_c.so",
            "lib/libspecprune_ros__rosidl_generator_c.so"} <= data
    assert {"specprune_ros/msg/__init__.py", "specprune_ros/srv/__init__.py",
            "specprune_ros/share.py"} <= names
    assert "share/specprune_ros/srv/SetInstruction.srv" in data
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "specprune_ros").rglob("*.py")
               if not {"msg", "srv"} & set(p.relative_to(ROOT).parts)}
    assert modules <= names
    assert "specprune = specprune_ros.cli:main" in entry_points
