"""The example package, installed into a scratch folder as a user's pip would."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="session")
def examples_env(tmp_path_factory):
    """Environment in which the examples are an installed package."""
    folder = tmp_path_factory.mktemp("examples")
    source = folder / "source"  # a build leaves files behind
    shutil.copytree(EXAMPLES, source, ignore=shutil.ignore_patterns("__pycache__", "build"))
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
         "--no-build-isolation", "--no-index", "--target", folder / "site", source],
        capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    path = os.pathsep.join([str(folder / "site"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
