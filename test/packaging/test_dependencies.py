"""Every module that the package imports is declared, for pip and for rosdep."""
from __future__ import annotations

import ast
import re
import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

# Imported module -> (pip distribution, rosdep key); None where that world has none.
DECLARED_AS = {
    "aiohttp": ("aiohttp", "python3-aiohttp"),
    "cv2": ("opencv-python-headless", "python3-opencv"),
    "matplotlib": ("matplotlib", "python3-matplotlib"),
    "mujoco": ("mujoco", None),
    "numpy": ("numpy", "python3-numpy"),
    "packaging": ("packaging", "python3-packaging"),
    "pinocchio": ("pin", "pinocchio"),
    "ray": ("ray", None),  # an extra
    "rich": ("rich", "python3-rich"),
    "rosbags": ("rosbags", None),
    "safetensors": ("safetensors", None),
    "simplejpeg": ("simplejpeg", None),
    "tokenizers": ("tokenizers", None),
    "torch": ("torch", None),
    "transformers": ("transformers", None),
    "triton": ("torch", None),  # comes with its CUDA builds
    "yaml": ("pyyaml", "python3-yaml"),
    # Not on the package index: imported where a ROS is sourced.
    "cv_bridge": (None, "cv_bridge"),
    "launch": (None, "launch"),
    "launch_ros": (None, "launch_ros"),
} | {name: ("ros-" + name.replace("_", "-"), name) for name in (
    "ament_index_python", "builtin_interfaces", "diagnostic_msgs", "geometry_msgs",
    "lifecycle_msgs", "nav_msgs", "rcl_interfaces", "rclpy", "rosgraph_msgs", "sensor_msgs",
    "std_msgs", "std_srvs", "trajectory_msgs")}


def imported_modules() -> dict[str, str]:
    """Third-party modules that the package and its launch files import, and where."""
    found: dict[str, str] = {}
    for path in [*(ROOT / "specprune_ros").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], f"{path.relative_to(ROOT)}:{node.lineno}")
    return {name: where for name, where in found.items()
            if name not in sys.stdlib_module_names and name != "specprune_ros"}


@pytest.fixture(scope="module")
def pip_names() -> set[str]:
    seen: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", seen.update)
        runpy.run_path("setup.py")
    extras = seen["extras_require"]
    lines = [*seen["install_requires"], *extras["ros"], *extras["ray"]]
    return {Requirement(line).name for line in lines}


@pytest.fixture(scope="module")
def rosdep_keys() -> set[str]:
    root = ET.parse(ROOT / "package.xml").getroot()
    return {e.text for e in root if e.tag in ("depend", "exec_depend")}


def test_imports_are_declared(pip_names, rosdep_keys):
    problems = []
    for module, where in sorted(imported_modules().items()):
        if module not in DECLARED_AS:
            problems.append(f"{where}: {module} is not declared as a dependency")
            continue
        pip_name, key = DECLARED_AS[module]
        if pip_name and pip_name not in pip_names:
            problems.append(f"{where}: {module} needs {pip_name} in setup.py")
        if key and key not in rosdep_keys:
            problems.append(f"{where}: {module} needs {key} in package.xml")
    assert not problems, "\n".join(problems)


def test_messages_depend_on_declared_packages(rosdep_keys):
    used = set()
    for path in (ROOT / "msg").glob("*.msg"):
        used |= set(re.findall(r"^(\w+)/\w+", path.read_text(), re.M))
    assert used == {"std_msgs"} and used <= rosdep_keys
    assert "DEPENDENCIES std_msgs)" in (ROOT / "CMakeLists.txt").read_text()
