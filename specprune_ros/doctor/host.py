"""The machine: versions, GPU, off-screen rendering, display."""
from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version

from ..preflight.findings import Finding, fail, ok, warn
from ..share import PACKAGE

_PATIENCE = 60.0  # s for a child process
_PYTHONS = ((3, 10), (3, 11), (3, 12))
#: rclpy by major version, and the distribution that it belongs to.
_ROS = {3: "Humble", 7: "Jazzy", 9: "Kilted"}
_WANTED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "mujoco", "pin",
           "rosbags")
_RENDER = ("from specprune_ros.sim.gl import create_context, choose_backend\n"
           "create_context(64, 64)\nprint(choose_backend() or 'glfw')")


def check_python(running: tuple[int, int] = sys.version_info[:2]) -> Finding:
    text = platform.python_version()
    if running in _PYTHONS:
        return ok("python", text)
    return warn("python", f"{text}; the package was tested with 3.10 to 3.12",
                "Use one of these where something does not work")


def required_ranges(lines: Sequence[str] | None = None) -> dict[str, str]:
    """Distribution -> version range of setup.py's install_requires, as they were installed.

    lines: Requires-Dist; None for those of the installed package.

    Raises:
        PackageNotFoundError: the package was copied, not installed.
    """
    from packaging.requirements import Requirement

    found = {}
    for line in requires(PACKAGE) or () if lines is None else lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found[requirement.name] = str(requirement.specifier)
    return found


def check_versions(ranges: Mapping[str, str] | None = None) -> list[Finding]:
    """Installed distributions against the ranges of setup.py."""
    from packaging.specifiers import SpecifierSet

    try:
        ranges = required_ranges() if ranges is None else ranges
    except PackageNotFoundError:
        return [warn("versions", f"{PACKAGE} is not installed, so the ranges are not known",
                     "Install it: pip install ., colcon build, or make venv")]
    findings = []
    for name in _WANTED:
        if name not in ranges:
            continue
        try:
            found = version(name)
        except PackageNotFoundError:
            findings.append(_missing(name, ranges[name]))
            continue
        text = f"{found} (setup.py asks for {ranges[name] or 'any'})"
        if SpecifierSet(ranges[name]).contains(found, prereleases=True):
            findings.append(ok(name, text))
        else:
            findings.append(warn(name, text, f"pip install '{name}{ranges[name]}'"))
    return findings


def _missing(name: str, wanted: str) -> Finding:
    remedy = f"pip install '{name}{wanted}'"
    # apt packages are not known to pip by these names, or at all.
    module = {"pin": "pinocchio"}.get(name, name)
    try:
        __import__(module)
    except ImportError:
        level = warn if name in ("mujoco", "rosbags") else fail
        return level(name, "not installed", remedy)
    return ok(name, f"installed, not by pip (setup.py asks for {wanted})")


def check_rclpy() -> Finding:
    """rclpy, which RMW it loads, and the compiled messages: asked for in a process of its own."""
    code = ("import rclpy, rclpy.utilities\n"
            "from specprune_ros.msg import PruneStats\n"
            "from specprune_ros.srv import SetInstruction\n"
            "from rclpy.serialization import serialize_message\n"
            "serialize_message(PruneStats())\n"
            "print(rclpy.utilities.get_rmw_implementation_identifier())\n"
            "print(hasattr(PruneStats(), 'kept_hashes'))")
    try:
        __import__("rclpy")
    except ImportError as error:
        return warn("rclpy", f"cannot be imported ({error}): the Python API works, the nodes do "
                             "not", "Source a ROS 2, or pip install 'specprune_ros[ros]'")
    result = _child(code)
    if result.returncode != 0:
        return fail("rclpy", f"rclpy or the compiled messages do not load: {_last(result.stderr)}",
                    "Build the messages for this ROS (make venv, or colcon build and source "
                    "install/setup.bash), and check RMW_IMPLEMENTATION="
                    f"{os.environ.get('RMW_IMPLEMENTATION', '')}")
    rmw, fresh = result.stdout.split()
    if fresh != "True":
        return fail("rclpy", "the compiled messages are older than the package",
                    "make -B venv, or colcon build")
    major = next((int(v.split(".")[0]) for v in _rclpy_versions()), 0)
    text = f"{next(_rclpy_versions(), 'version not known')} with {rmw}"
    if major and major not in _ROS:
        return warn("rclpy", f"{text}; the package was made for {', '.join(_ROS.values())}",
                    "Look at the tests (make test) before you rely on it")
    return ok("rclpy", f"{text} ({_ROS.get(major, 'distribution not known')})")


def _rclpy_versions():
    for name in ("rclpy", "ros-rclpy"):
        try:
            yield version(name)
        except PackageNotFoundError:
            continue


def check_gpu(device: str) -> Finding:
    """The device that was asked for; without a GPU everything runs, only slower."""
    import torch

    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            return fail("gpu", f"{device} was asked for, but torch {torch.__version__} sees no "
                               "CUDA device", "Install a CUDA build of torch and its driver, or "
                                              "use --device cpu")
        index = torch.device(device).index or 0
        if index >= torch.cuda.device_count():
            return fail("gpu", f"{device} was asked for, there are {torch.cuda.device_count()}",
                        "Name another")
        return ok("gpu", torch.cuda.get_device_name(index))
    if torch.cuda.is_available():
        return ok("gpu", f"{torch.cuda.get_device_name(0)} is there; --device cuda uses it")
    return warn("gpu", "no CUDA device: inference runs on the CPU",
                "Of use for small checkpoints; a 7B policy needs a GPU to keep up with an arm")


def check_rendering() -> Finding:
    """Off-screen OpenGL, as the simulator uses it; in a process of its own, as drivers crash."""
    result = _child(_RENDER)
    if result.returncode == 0:
        return ok("off-screen rendering", f"OpenGL through {result.stdout.split()[-1]}")
    return warn("off-screen rendering", _last(result.stderr) or f"exit {result.returncode}",
                "Only the simulator needs it: apt-get install libegl1 libgl1 libgl1-mesa-dri")


def check_display(environment: Mapping[str, str] | None = None) -> Finding:
    environment = os.environ if environment is None else environment
    for name in ("WAYLAND_DISPLAY", "DISPLAY"):
        if environment.get(name):
            return ok("display", f"{name}={environment[name]}")
    return warn("display", "none", "Only --view needs one")


def _child(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=_PATIENCE)


def _last(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
