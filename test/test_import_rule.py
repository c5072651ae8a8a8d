"""The import rule of docs/architecture.md, kept over the syntax tree of every module."""
from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "specprune_ros"

BASE = {"errors", "types", "tokens"}
# What each folder or module of the package may import of the package, beside itself.
MAY_IMPORT = {
    "errors": set(),
    "types": {"errors"},
    "tokens": {"errors", "types"},
    "share": {"errors"},
    "plugins": {"errors"},
    "processes": {"errors"},
    "provenance": {"errors"},
    "robot": BASE,
    "pruning": BASE | {"plugins"},
    "vla": BASE | {"plugins"},
    "sim": {"errors", "types", "robot", "share", "plugins"},
    "runtime": BASE | {"vla", "pruning", "robot"},
    "policy": BASE | {"vla", "pruning", "robot", "runtime", "share"},
    "training": BASE | {"vla", "robot", "sim"},
    "eval": BASE | {"vla", "pruning", "robot", "runtime", "policy", "sim", "share"},
    "preflight": BASE | {"vla", "pruning", "runtime", "policy", "provenance"},
    "ros": BASE | {"vla", "pruning", "robot", "runtime", "policy", "preflight", "sim", "share",
                   "msg"},
}
# Offline work on top of the policy and the simulators, without ROS.
TOOLS = {"analysis", "bench", "eval", "report", "training"}
MAY_IMPORT |= {name: BASE | TOOLS | {"vla", "pruning", "robot", "runtime", "policy", "sim", "share",
                                     "provenance"}
               for name in TOOLS}
# Programs: they may import all of the above, but ROS only when it is needed (inside a function).
PROGRAMS = {"__init__", "__main__", "bringup", "cli", "demo", "doctor", "replay", "through_ros",
            "view"}

ROS_MODULES = {"rclpy", "rcl_interfaces", "lifecycle_msgs", "sensor_msgs", "std_msgs", "std_srvs",
               "geometry_msgs", "nav_msgs", "trajectory_msgs", "diagnostic_msgs", "rosgraph_msgs",
               "builtin_interfaces", "cv_bridge", "launch", "launch_ros", "ament_index_python"}
IMAGE_CODECS = {"cv2", "simplejpeg", "PIL", "imageio"}
CHECKPOINT_READERS = {"safetensors", "transformers", "tokenizers"}
# Third-party modules that a folder or module does not know.
MUST_NOT_KNOW = {
    "errors": {"torch", "numpy"},
    "types": {"torch"},
    "tokens": {"torch"},
    "robot": {"torch"} | IMAGE_CODECS | CHECKPOINT_READERS,
    "sim": {"torch"} | CHECKPOINT_READERS,
    "pruning": IMAGE_CODECS | CHECKPOINT_READERS,
}


@dataclass(frozen=True)
class Import:
    unit: str  # folder or module directly under the package that the import stands in
    target: str  # absolute dotted name
    where: str  # file:line
    lazy: bool  # inside a function


def imports_of(source: str, module: tuple[str, ...], is_package: bool,
               where: str) -> Iterator[Import]:
    """Yield the imports of a module; ``module`` is its dotted name in parts."""
    unit = module[1] if len(module) > 1 else "__init__"
    tree = ast.parse(source)
    in_function = {node for function in ast.walk(tree)
                   if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
                   for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = list(module if is_package else module[:-1])
            if node.level:
                base = parts[: len(parts) - node.level + 1] + (node.module or "").split(".")
            else:
                base = node.module.split(".")
            dotted = ".".join(filter(None, base))
            # `from specprune_ros import x` may import a module.
            targets = ([f"{dotted}.{alias.name}" for alias in node.names]
                       if dotted == PACKAGE else [dotted])
        else:
            continue
        for target in targets:
            yield Import(unit, target, f"{where}:{node.lineno}", node in in_function)


def is_module(name: str) -> bool:
    """Whether the name under the package is a module, not a variable of its __init__."""
    path = ROOT / PACKAGE / name
    return bool(name) and (path.is_dir() or path.with_suffix(".py").is_file() or name == "msg")


def violations(imports: list[Import]) -> list[str]:
    found = []
    for item in imports:
        top, _, rest = item.target.partition(".")
        inner = rest.split(".")[0]
        if top == PACKAGE and is_module(inner):
            allowed = MAY_IMPORT.get(item.unit)
            if item.unit in PROGRAMS:
                wrong = inner in ("ros", "msg") and not item.lazy
            elif allowed is None:
                found.append(f"{item.where}: add {item.unit!r} to the import rule")
                continue
            else:
                wrong = inner not in allowed | {item.unit}
        else:
            wrong = top in ROS_MODULES and item.unit != "ros"
            wrong |= top in MUST_NOT_KNOW.get(item.unit, ())
        if wrong:
            found.append(f"{item.where}: {item.unit} must not import {item.target}")
    return found


def package_imports() -> list[Import]:
    found: list[Import] = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts[1] == "msg":  # compiled by colcon build --symlink-install
            continue
        is_package = path.name == "__init__.py"
        module = relative.with_suffix("").parts[: -1 if is_package else None]
        found += imports_of(path.read_text(), module, is_package, str(relative))
    return found


def test_package_follows_the_rule():
    found = violations(package_imports())
    assert not found, "\n".join(found)


def test_every_folder_is_in_the_rule():
    units = {p.stem for p in (ROOT / PACKAGE).iterdir()
             if p.suffix == ".py" or (p.is_dir() and (p / "__init__.py").exists())} - {"msg"}
    unnamed = units - set(MAY_IMPORT) - PROGRAMS
    assert not unnamed, f"name the layer of {sorted(unnamed)}"


@pytest.mark.parametrize("module, line, wrong", [
    (("specprune_ros", "vla", "x"), "import rclpy", True),
    (("specprune_ros", "ros", "x"), "import rclpy", False),
    (("specprune_ros", "robot", "x"), "def f():\n    import torch", True),
    (("specprune_ros", "types"), "from .ros import vla_node", True),
    (("specprune_ros", "pruning", "x"), "from ..vla.openvla_oft import model", True),
    (("specprune_ros", "pruning", "x"), "from .. import vla", True),
    (("specprune_ros", "pruning", "x"), "from specprune_ros.tokens import TokenLayout", False),
    (("specprune_ros", "pruning", "x"), "import cv2", True),
    (("specprune_ros", "pruning", "x"), "import specprune_ros", False),
    (("specprune_ros", "pruning", "x"), "from .. import __version__", False),
    (("specprune_ros", "sim", "tabletop", "x"), "from ...robot.rotations import y", False),
    (("specprune_ros", "sim", "tabletop", "x"), "from ...policy import y", True),
    (("specprune_ros", "cli"), "from specprune_ros.ros import x", True),
    (("specprune_ros", "cli"), "def f():\n    from specprune_ros.ros import x", False),
    (("specprune_ros", "cli"), "def f():\n    import rclpy", True),
    (("specprune_ros", "brand_new"), "from .errors import SpecpruneError", True),
])
def test_rule_tells_right_from_wrong(module, line, wrong):
    found = violations(list(imports_of(line, module, False, "made_up.py")))
    assert bool(found) == wrong, found
