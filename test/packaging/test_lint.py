"""The checkout passes ruff (settings in pyproject.toml)."""
import subprocess
import sys
from pathlib import Path

import pytest


def test_ruff():
    pytest.importorskip("ruff")
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache",
                             "--output-format=concise", "."],
                            cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
