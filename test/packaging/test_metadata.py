"""package.xml, setup.py, the changelog and the package say the same thing."""
from __future__ import annotations

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

import specprune_ros

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_XML = ET.parse(ROOT / "package.xml").getroot()


@pytest.fixture
def setup_arguments(monkeypatch) -> dict:
    """What setup.py hands to setuptools."""
    monkeypatch.chdir(ROOT)
    seen: dict = {}
    monkeypatch.setattr(setuptools, "setup", seen.update)
    runpy.run_path("setup.py")
    return seen


def test_versions_agree(setup_arguments):
    version = PACKAGE_XML.findtext("version")
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert setup_arguments["version"] == version
    assert specprune_ros.__version__ == version
    newest = re.search(r"^(.+)\n-{5,}$", (ROOT / "CHANGELOG.rst").read_text(), re.M).group(1)
    assert newest == f"Forthcoming ({version})" or re.fullmatch(
        re.escape(version) + r" \(\d{4}-\d\d-\d\d\)", newest), newest


def test_package_xml_is_what_ros_tools_accept():
    assert PACKAGE_XML.get("format") == "3"
    assert PACKAGE_XML.findtext("name") == "specprune_ros"
    assert PACKAGE_XML.findtext("license") == "Apache-2.0"
    assert (ROOT / PACKAGE_XML.find("license").get("file")).is_file()
    assert PACKAGE_XML.findtext("export/build_type") == "ament_python"
    assert PACKAGE_XML.findtext("member_of_group") == "rosidl_interface_packages"
    # catkin_pkg refuses a package whose e-mail has no dot in its domain.
    email = PACKAGE_XML.find("maintainer").get("email")
    assert re.fullmatch(r"[\w.+-]+@([\w-]+\.)+[a-z]{2,}", email)
    names = [(e.tag, e.text) for e in PACKAGE_XML if e.tag.endswith("depend")]
    assert len(names) == len(set(names))


def test_package_xml_is_read_by_catkin_pkg():
    package = pytest.importorskip("catkin_pkg.package").parse_package(str(ROOT / "package.xml"))
    package.validate()
    assert "rclpy" in {d.name for d in package.exec_depends}


def test_requirements_have_upper_bounds(setup_arguments):
    """An open range would install the next major version of a dependency one day."""
    extras = setup_arguments["extras_require"]
    for text in [*setup_arguments["install_requires"], *extras["ros"], *extras["ros-jazzy"]]:
        operators = {s.operator for s in Requirement(text).specifier}
        assert operators & {"~=", "<", "=="}, text


def test_colcon_can_read_the_requirements(setup_arguments):
    """colcon-core 0.21 fails on ~=N.0, silently, and then runs unittest instead of pytest."""
    for text in [*setup_arguments["install_requires"], *setup_arguments["extras_require"]["test"]]:
        assert not re.search(r"~=\s*\d+\.0$", text), text


def test_ros_is_only_in_the_extras(setup_arguments):
    required = {Requirement(r).name for r in setup_arguments["install_requires"]}
    assert not {n for n in required if n.startswith("ros-")}
    # `launch` on the package index is not ROS's; timm and torchvision are not needed.
    assert not required & {"launch", "timm", "torchvision"}


def test_both_ros_extras_hold_the_same_packages(setup_arguments):
    extras = setup_arguments["extras_require"]
    kilted, jazzy = ({Requirement(r).name for r in extras[e]} for e in ("ros", "ros-jazzy"))
    assert kilted == jazzy


@pytest.mark.parametrize("build_file, extra", [
    ("pyproject.toml", "ros"), ("requirements/build-jazzy.txt", "ros-jazzy")])
def test_messages_are_built_with_the_ros_they_run_on(setup_arguments, build_file, extra):
    build = dict(re.findall(r'^\s*"?(ros-[\w-]+)(~=[\d.]+)', (ROOT / build_file).read_text(), re.M))
    run = {Requirement(r).name: str(Requirement(r).specifier)
           for r in setup_arguments["extras_require"][extra]}
    shared = set(build) & set(run)
    assert "ros-std-msgs" in shared
    assert {n: build[n] for n in shared} == {n: run[n] for n in shared}


def test_entry_points_name_functions_that_exist(setup_arguments):
    for line in setup_arguments["entry_points"]["console_scripts"]:
        module, function = line.split("=")[1].strip().split(":")
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        assert re.search(rf"^def {function}\(", source, re.M), line


def test_share_files_are_all_installed(setup_arguments):
    installed = {f for _, files in setup_arguments["data_files"] for f in files}
    for folder in ("config", "launch", "models"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in installed
    for folder, files in setup_arguments["data_files"]:
        for name in files:
            if name.startswith(("config/", "launch/", "models/")):
                assert folder == f"share/specprune_ros/{Path(name).parent.as_posix()}"


def test_files_of_the_page_are_installed_beside_its_modules(setup_arguments):
    patterns = setup_arguments["package_data"]["specprune_ros"]
    package = ROOT / "specprune_ros"
    matched = {path for pattern in patterns for path in package.glob(pattern)}
    others = {path for path in package.rglob("*")
              if path.is_file() and path.suffix not in (".py", ".pyc")
              and path.relative_to(package).parts[0] != "msg"}
    assert others and others <= matched
