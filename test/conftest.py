"""Shared fixtures: recorded reference data and the small checkpoints."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "test" / "data"


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread():
    """Two busy cores make OpenMP teams wait for one another; one thread is faster and steadier."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return DATA / "oft_a"


@pytest.fixture(scope="session")
def golden_cases(golden_dir):
    """[(arrays, meta)] of the recorded cases."""
    meta = json.loads((golden_dir / "meta.json").read_text())
    return [
        (dict(np.load(golden_dir / f"case{i}.npz")), case) for i, case in enumerate(meta["cases"])
    ]


@pytest.fixture(scope="session")
def tiny_dir() -> Path:
    """The shipped untrained checkpoint."""
    return ROOT / "models" / "specprune-tiny"
