"""LIBERO's suites, played as the published evaluations play them. LIBERO itself is optional."""
from __future__ import annotations

import os

from ...errors import ConfigurationError
from ..base import Simulator
from .suites import PYTHON_VARIABLE, SUITES

__all__ = ["SUITES", "make_libero"]


def make_libero(suite: str, render_size: int = 256, view: bool = False) -> Simulator:
    """Simulator of one of SUITES: in this process, or in one of the Python that
    ``SPECPRUNE_LIBERO_PYTHON`` names, whose environment then needs LIBERO instead of this one.

    Raises SimulatorError, with a remedy, if LIBERO is missing or cannot work.
    """
    if view:
        raise ConfigurationError(f"suite {suite!r} has no window to view: leave out view")
    python = os.environ.get(PYTHON_VARIABLE, "").strip()
    if python:
        from .remote import RemoteLibero

        return RemoteLibero(python, suite, render_size)
    from .simulator import LiberoSimulator

    return LiberoSimulator(suite, render_size)
