"""scripts/gpu_check.sh: what it says without a device, and what it runs with one."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# Sees a device, tells what it is asked to run, and fails where it is told to.
STAND_IN = """#!/bin/bash
[ "$1" = -c ] && exit 0
echo "ran $*"
case "$*" in *"$FAILS"*) exit 3 ;; esac
"""


def gpu_check(what: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "scripts/gpu_check.sh", what], cwd=ROOT, text=True, capture_output=True,
        timeout=120, env={**os.environ, "WHEELS": "nowhere", **environment},
    )


@pytest.fixture
def stand_in(tmp_path):
    file = tmp_path / "python"
    file.write_text(STAND_IN)
    file.chmod(0o755)
    return {"PYTHON": str(file), "OUT": str(tmp_path / "out"), "FAILS": "nothing"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(tmp_path):
    done = gpu_check("all", PYTHON=sys.executable, OUT=str(tmp_path / "out"))
    assert done.returncode == 1
    assert "sees no CUDA device" in done.stderr and "PYTHON=" in done.stderr
    assert not (tmp_path / "out").exists()


def test_all_runs_tests_and_benchmark(stand_in):
    done = gpu_check("all", **stand_in)
    assert done.returncode == 0, done.stderr
    tests, benchmark = re.findall("^ran (.*)", done.stdout, re.M)
    assert " -m gpu " in tests
    folders = re.findall(r"\btest/\w+", tests)
    assert len(folders) >= 4 and all((ROOT / folder).is_dir() for folder in folders)
    assert "bench --device cuda --model 7b --json" in benchmark
    log = Path(stand_in["OUT"]) / "bench-gpu.log"
    assert log.read_text().strip() == f"ran {benchmark}"


@pytest.mark.parametrize("fails", ["-m pytest", "cli bench"])
def test_a_step_that_fails_fails_the_whole_and_lets_the_other_run(stand_in, fails):
    done = gpu_check("all", **{**stand_in, "FAILS": fails})
    assert done.returncode == 1
    assert done.stdout.count("FAILED") == 1
    assert len(re.findall("^ran", done.stdout, re.M)) == 2


def test_an_unknown_step_is_named(stand_in):
    done = gpu_check("everything", **stand_in)
    assert done.returncode == 1
    assert "unknown step 'everything': test, bench or all" in done.stderr
