"""Every line about the machine and about DDS, as OK, WARN and FAIL, each with a real cause."""
from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from specprune_ros.bringup import FASTDDS_PROFILES, fastdds_variable
from specprune_ros.doctor import dds, host
from specprune_ros.errors import ConfigurationError
from specprune_ros.preflight import Level, memory
from specprune_ros.preflight.memory import Need, check_memory, host_memory, memory_need
from specprune_ros.share import share_dir
from specprune_ros.vla.openvla_oft.config import read_model_config
from specprune_ros.vla.openvla_oft.files import read_checkpoint_files

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL
GIB = 2**30


def level_of(found, *words):
    for word in words:
        assert word in str(found), found
    assert found.level is OK or found.remedy
    return found.level


# --- versions -----------------------------------------------------------------------------------

def test_python():
    assert host.check_python((3, 11)).level is OK
    assert level_of(host.check_python((3, 14)), "3.10 to 3.12") is WARN


def test_versions_here_are_in_the_ranges_of_setup_py():
    pytest.importorskip("rosbags")
    found = {finding.name: finding for finding in host.check_versions()}
    assert {"torch", "transformers", "numpy", "mujoco"} <= set(found)
    assert level_of(found["torch"], version("torch"), "~=") is OK


def test_a_version_out_of_range_and_one_that_is_missing():
    found = {f.name: f for f in host.check_versions({
        "torch": "~=1.13", "numpy": ">=1.21,<3", "tokenizers": "", "mujoco": ">=3.3"})}
    assert level_of(found["torch"], "asks for ~=1.13", "pip install 'torch~=1.13'") is WARN
    assert found["numpy"].level is OK and found["tokenizers"].level is OK


def test_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(host, "_WANTED", ("no-such-torch",))
    (found,) = host.check_versions({"no-such-torch": "~=2.6"})
    assert level_of(found, "not installed", "pip install 'no-such-torch~=2.6'") is FAIL
    monkeypatch.setitem(sys.modules, "mujoco", None)  # import fails
    assert level_of(host._missing("mujoco", ">=3.3"), "not installed") is WARN
    assert level_of(host._missing("json", ""), "not by pip") is OK


def test_ranges_are_those_of_installed_requirements_without_extras():
    assert host.required_ranges([
        "torch~=2.6", "ray~=2.40; extra == 'ray'", "numpy<3,>=1.21",
        "old; python_version < '3'"]) == {"torch": "~=2.6", "numpy": "<3,>=1.21"}


def test_a_package_that_was_only_copied(monkeypatch):
    monkeypatch.setattr(host, "PACKAGE", "no-such-package")
    (found,) = host.check_versions()
    assert level_of(found, "is not installed", "pip install .") is WARN


# --- ROS ----------------------------------------------------------------------------------------

def test_rclpy():
    pytest.importorskip("rclpy")
    assert level_of(host.check_rclpy(), "rmw_fastrtps_cpp") is OK


def test_rclpy_with_a_middleware_that_is_not_there(monkeypatch):
    pytest.importorskip("rclpy")
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_nonsense_cpp")
    assert level_of(host.check_rclpy(), "do not load", "RMW_IMPLEMENTATION=rmw_nonsense_cpp"
                    ) is FAIL


def test_without_rclpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    assert level_of(host.check_rclpy(), "Python API works", "Source a ROS 2") is WARN


def test_old_messages_and_another_distribution(monkeypatch):
    pytest.importorskip("rclpy")

    def child(stdout):
        return lambda _code: type("Result", (), {"returncode": 0, "stdout": stdout, "stderr": ""})

    monkeypatch.setattr(host, "_child", child("rmw_fastrtps_cpp\nFalse\n"))
    assert level_of(host.check_rclpy(), "older than the package", "make -B venv") is FAIL
    monkeypatch.setattr(host, "_child", child("rmw_fastrtps_cpp\nTrue\n"))
    monkeypatch.setattr(host, "_ROS", {3: "Humble"})
    assert level_of(host.check_rclpy(), "was made for Humble") is WARN


@pytest.mark.parametrize("name, level", [("", OK), ("rmw_fastrtps_cpp", OK),
                                         ("rmw_cyclonedds_cpp", WARN)])
def test_rmw(name, level):
    assert dds.check_rmw({"RMW_IMPLEMENTATION": name}).level is level


SHIPPED = share_dir() / FASTDDS_PROFILES


def profile(path, segment):
    path.write_text(SHIPPED.read_text().replace("33554432", segment))
    return path


def test_dds_profile(tmp_path):
    variable = fastdds_variable()
    assert level_of(dds.check_profile({variable: str(SHIPPED)}), "32 MiB") is OK
    assert level_of(dds.check_profile({}), "is not set", f"export {variable}={SHIPPED}") is WARN
    other = next(v for v in dds._VARIABLES if v != variable)
    assert level_of(dds.check_profile({other: str(SHIPPED)}), f"reads {variable}") is WARN
    for path in (tmp_path / "none.xml", tmp_path):
        assert level_of(dds.check_profile({variable: str(path)}), "cannot be read") is FAIL
    (tmp_path / "broken.xml").write_text("<profiles>")
    assert dds.check_profile({variable: str(tmp_path / "broken.xml")}).level is FAIL
    small = profile(tmp_path / "small.xml", "524288")
    assert level_of(dds.check_profile({variable: str(small)}), "too small") is WARN
    (tmp_path / "empty.xml").write_text("<profiles/>")
    assert level_of(dds.check_profile({variable: str(tmp_path / "empty.xml")}),
                    "no segment_size") is WARN


@pytest.mark.parametrize("mib, level", [(1024, OK), (64, WARN), (8, FAIL)])
def test_shared_memory(mib, level, tmp_path, monkeypatch):
    (tmp_path / "fastdds_abc").touch()
    status = type("Status", (), {"f_bavail": mib * 256, "f_frsize": 4096})
    monkeypatch.setattr(dds.os, "statvfs", lambda _folder: status)
    assert level_of(dds.check_shared_memory(tmp_path), f"{mib} MiB free", "1 files") is level


def test_no_shared_memory(tmp_path):
    assert level_of(dds.check_shared_memory(tmp_path / "none"), "go through UDP") is WARN


@pytest.mark.parametrize("environment, level, words", [
    ({}, OK, ["0, discovery in the subnet"]),
    ({"ROS_DOMAIN_ID": "42", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, OK,
     ["42, discovery on this machine"]),
    ({"ROS_LOCALHOST_ONLY": "1"}, OK, ["on this machine"]),
    ({"ROS_DOMAIN_ID": "150"}, WARN, ["ports may be taken"]),
    ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "off"}, WARN, ["do not find one another"]),
    ({"ROS_DOMAIN_ID": "lab"}, FAIL, ["ROS_DOMAIN_ID=lab", "no node starts"]),
    ({"ROS_DOMAIN_ID": "-1"}, FAIL, ["no node starts"]),
    ({"ROS_DOMAIN_ID": "233"}, FAIL, ["0 to 232"]),
    ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "HOUSE"}, FAIL, ["HOUSE is none of SUBNET, LOCALHOST"]),
])
def test_domain(environment, level, words):
    assert level_of(dds.check_domain(environment), *words) is level


# --- GPU, pictures, display ---------------------------------------------------------------------

@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu():
    assert level_of(host.check_gpu("cpu"), "no CUDA device") is WARN
    assert level_of(host.check_gpu("cuda"), "sees no CUDA device", "--device cpu") is FAIL
    assert level_of(check_memory(Need(1, 1), "cuda"), "no CUDA device") is FAIL


@pytest.mark.gpu
def test_a_gpu():
    assert host.check_gpu("cuda").level is OK and host.check_gpu("cpu").level is OK
    assert level_of(host.check_gpu("cuda:99"), "there are") is FAIL
    assert level_of(check_memory(Need(GIB, 1), "cuda"), torch.cuda.get_device_name()) is OK
    assert check_memory(Need(10_000 * GIB, 1), "cuda").level is FAIL


def test_rendering(monkeypatch):
    assert level_of(host.check_rendering(), "OpenGL through") is OK
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert level_of(host.check_rendering(), "MUJOCO_GL=disable", "libegl1") is WARN


def test_display():
    assert level_of(host.check_display({"DISPLAY": ":0"}), "DISPLAY=:0") is OK
    assert level_of(host.check_display({}), "--view") is WARN


# --- memory -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def sizes(tiny_dir):
    files = read_checkpoint_files(tiny_dir)
    return files, read_model_config(files)


def test_need_follows_the_sizes(sizes, tiny_dir, policy):
    single, double = (memory_need(*sizes, dtype, 2) for dtype in (torch.bfloat16, torch.float32))
    assert double.weights == 2 * single.weights
    loaded = sum(p.numel() for p in policy.model.parameters()) * 4
    assert loaded <= double.weights <= 1.3 * loaded  # some tensors are not loaded
    assert memory_need(*sizes, torch.float32, 4).activations > double.activations


@pytest.mark.parametrize("free, level", [(8.0, OK), (3.0, WARN), (1.0, FAIL)])
def test_memory(free, level, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: (int(free * GIB), 16 * GIB))
    need = Need(2 * GIB, 0)
    assert level_of(check_memory(need, "cpu"), "about 2.60 GiB needed", f"{free:.2f} GiB of 16.00"
                    ) is level


def test_free_memory_is_that_of_the_control_group(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")
    monkeypatch.setattr(memory, "_ROOTS", (tmp_path / "v2", tmp_path / "v1"))
    assert host_memory(meminfo) == (8 * GIB, 16 * GIB)
    for root, (limit, current) in (("v1", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
                                   ("v2", ("memory.max", "memory.current"))):
        (tmp_path / root).mkdir()
        (tmp_path / root / limit).write_text(f"{4 * GIB}\n")
        (tmp_path / root / current).write_text(f"{GIB}\n")
        assert host_memory(meminfo) == (3 * GIB, 4 * GIB)
    (tmp_path / "v2" / "memory.max").write_text("max\n")
    assert host_memory(meminfo) == (8 * GIB, 16 * GIB)
    with pytest.raises(ConfigurationError, match="does not tell"):
        host_memory(Path(tmp_path / "none"))
