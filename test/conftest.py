"""Shared fixtures: recorded reference data and the small checkpoints."""
from __future__ import annotations

import json
import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "test" / "data"


# Before torch and MuJoCo are imported, and for child processes too: on two busy cores teams of
# threads wait for one another.
for _variable in ("OMP_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


# The same examples in every run: a red test means that something has changed. Look for new ones
# with HYPOTHESIS_PROFILE=search.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", max_examples=500, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


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
def libero_site(tmp_path_factory) -> Path:
    """A folder with the double of LIBERO, to put on a path; not to be changed."""
    from libero_double import prepare

    return prepare(tmp_path_factory.mktemp("libero") / "site")


@pytest.fixture(scope="session")
def tiny_dir() -> Path:
    """The shipped untrained checkpoint."""
    return ROOT / "models" / "specprune-tiny"
