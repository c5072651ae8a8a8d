"""What `make` says when the machine lacks something."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


def run(command: list[str], **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, **env}, stdin=subprocess.DEVNULL)


@pytest.fixture
def machine(tmp_path):
    """A PATH with nothing but what is put on it: stubs by name -> body, links by name."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def build(stubs: dict[str, str]) -> str:
        for name in ("bash", "env", "cat"):
            (folder / name).symlink_to(f"/bin/{name}")
        for name, body in stubs.items():
            (folder / name).write_text(f"#!/bin/bash\n{body}\n")
            (folder / name).chmod(0o755)
        return str(folder)

    return build


def test_missing_compiler_is_named_with_the_command(machine):
    path = machine({"id": "echo 1000", "sudo": "exit 1", "apt-get": "exit 0", "make": "exit 0"})
    result = run(["/bin/bash", str(SCRIPTS / "system_check.sh"), "build"],
                 PATH=path, PYTHON=sys.executable)
    assert result.returncode == 1
    assert "sudo apt-get update && sudo apt-get install" in result.stderr
    assert "gcc g++" in result.stderr
    assert "make" not in result.stderr.split("install", 1)[1].split()


def test_missing_packages_are_installed_as_root(machine, tmp_path):
    log = tmp_path / "apt.log"
    path = machine({"id": "echo 0", "apt-get": f'echo "$@" >> {log}', "make": "exit 0",
                    "cc": "exit 0"})
    result = run(["/bin/bash", str(SCRIPTS / "system_check.sh"), "build"],
                 PATH=path, PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    update, install = log.read_text().splitlines()
    assert update.startswith("update")
    assert install.startswith("install") and install.split()[-1] == "g++"


def test_machine_without_apt_names_the_packages(machine):
    path = machine({"id": "echo 0", "make": "exit 0"})
    result = run(["/bin/bash", str(SCRIPTS / "system_check.sh"), "build"],
                 PATH=path, PYTHON=sys.executable)
    assert result.returncode == 1
    assert "missing: gcc g++" in result.stderr


def test_too_old_python_is_refused(machine, tmp_path):
    old = tmp_path / "python"
    old.write_text('#!/bin/bash\n[ "$1" = --version ] && echo "Python 3.8.18" && exit 0\n'
                   '[[ "$2" == *version_info* ]] && exit 1\nexit 0\n')
    old.chmod(0o755)
    path = machine({"make": "exit 0", "cc": "exit 0", "c++": "exit 0"})
    result = run(["/bin/bash", str(SCRIPTS / "system_check.sh"), "build"],
                 PATH=path, PYTHON=str(old))
    assert result.returncode == 1
    assert "Python 3.8.18 is not supported" in result.stderr and "PYTHON=" in result.stderr


def test_environment_of_another_ros_is_not_mixed(tmp_path):
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".kind").write_text("jazzy wheels\n")
    result = run([str(SCRIPTS / "make_venv.sh")], VENV=str(venv), WHEELS="kilted",
                 AMENT_PREFIX_PATH="", ROS_DISTRO="")
    assert result.returncode == 1
    assert "jazzy wheels, not for kilted wheels" in result.stderr
    assert sorted(p.name for p in venv.iterdir()) == [".kind"]


def test_sourced_ros_without_generators_names_the_package(tmp_path):
    result = run([str(SCRIPTS / "make_venv.sh")], VENV=str(tmp_path / "venv"),
                 AMENT_PREFIX_PATH=str(tmp_path), ROS_DISTRO="humble")
    assert result.returncode == 1
    assert "ros-humble-rosidl-default-generators" in result.stderr


def test_failed_installation_leaves_no_stamp(tmp_path):
    """`make` must try again after a failure."""
    venv = tmp_path / "venv"
    result = run(["make", "venv", f"VENV={venv}", "WHEELS=nonsense"])
    assert result.returncode != 0
    assert "choose kilted or jazzy" in result.stderr
    assert not (venv / ".installed").exists()
