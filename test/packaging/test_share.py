"""share_dir() finds the files that belong to the code that asks."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specprune_ros.share import share_dir

ROOT = Path(__file__).resolve().parents[2]
ASK = "from specprune_ros.share import share_dir; print(share_dir())"


def test_checkout_reads_its_own_files():
    assert share_dir() == ROOT
    assert (share_dir() / "config").is_dir()


@pytest.fixture
def installed(tmp_path) -> Path:
    """A prefix that holds the module as pip and colcon install it, without the share folder."""
    package = tmp_path / "prefix/lib/python3/site-packages/specprune_ros"
    package.mkdir(parents=True)
    for name in ("share.py", "errors.py"):
        (package / name).write_text((ROOT / "specprune_ros" / name).read_text())
    (package / "__init__.py").touch()
    return tmp_path / "prefix"


def ask(installed: Path, ament_prefix_path: str = "",
        prefix: str = sys.prefix) -> subprocess.CompletedProcess:
    # -S: no site packages, so that nothing but the copy under test can be found.
    return subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.prefix = {prefix!r}; {ASK}"],
        capture_output=True, text=True, cwd=installed, env={
            **os.environ, "PYTHONPATH": str(installed / "lib/python3/site-packages"),
            "AMENT_PREFIX_PATH": ament_prefix_path})


def add_share(prefix: Path) -> Path:
    folder = prefix / "share/specprune_ros"
    folder.mkdir(parents=True)
    (folder / "package.xml").touch()
    return folder


def test_installed_copy_reads_its_own_prefix(installed, tmp_path):
    folder = add_share(installed)
    add_share(tmp_path / "other")
    assert ask(installed, str(tmp_path / "other")).stdout.strip() == str(folder)


def test_installed_copy_reads_the_ros_prefixes(installed, tmp_path):
    folder = add_share(tmp_path / "workspace")
    answer = ask(installed, os.pathsep.join([str(tmp_path / "none"), str(tmp_path / "workspace")]))
    assert answer.stdout.strip() == str(folder)


def test_copy_without_files_names_the_remedy(installed, tmp_path):
    answer = ask(installed, str(tmp_path / "none"), prefix=str(tmp_path / "python"))
    assert "SpecpruneError" in answer.stderr and "pip install ." in answer.stderr
