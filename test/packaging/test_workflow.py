"""The workflow of CI names things that exist."""
from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def jobs():
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]


def commands(job) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def test_every_supported_distribution_is_built_and_tested(jobs):
    assert jobs["colcon"]["strategy"]["matrix"]["distro"] == ["humble", "jazzy", "kilted"]
    for verb in ("build", "test"):
        assert f"colcon {verb} --packages-select specprune_ros" in commands(jobs["colcon"])


def test_wheel_path_runs_what_ci_runs(jobs):
    assert commands(jobs["wheels"]).strip() == ".ci/run"
    kinds = {case["wheels"] for case in jobs["wheels"]["strategy"]["matrix"]["include"]}
    assert kinds == {"kilted", "jazzy"}


def test_targets_and_files_exist(jobs):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in jobs.values():
        assert set(re.findall(r"^make ([a-z-]+)", commands(job), re.MULTILINE)) <= targets
        for script in re.findall(r"(?:\.ci/run|scripts/\w+\.(?:sh|py))", commands(job)):
            assert (ROOT / script).is_file(), script


def test_pins_of_the_colcon_job_are_those_of_the_readme(jobs):
    readme = (ROOT / "README.md").read_text()
    for pin in re.findall(r'"((?:torch|transformers)[^"]+)"', commands(jobs["colcon"])):
        assert f'"{pin}"' in readme


@pytest.mark.parametrize("name", [".pre-commit-config.yaml", "CITATION.cff", "rosdoc2.yaml"])
def test_yaml_files_can_be_read(name):
    assert list(yaml.safe_load_all((ROOT / name).read_text()))


def test_citation_has_the_version_of_the_package():
    version = re.search(r"VERSION = '([^']+)'", (ROOT / "setup.py").read_text())[1]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
