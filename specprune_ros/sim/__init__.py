"""Simulators behind one protocol (``base.Simulator``); none of them knows ROS."""
from __future__ import annotations

import importlib
import os

from ..errors import ConfigurationError, SimulatorError
from .base import SimObservation, Simulator
from .libero.suites import BASE_FRAME as LIBERO_FRAME
from .libero.suites import SUITES as LIBERO_SUITES
from .tabletop import panda
from .tabletop.suites import SUITES

__all__ = ["SimObservation", "Simulator", "base_frame", "make_simulator", "suite_names"]


def suite_names() -> tuple[str, ...]:
    """Names of the suites that :func:`make_simulator` knows."""
    return (*SUITES, *LIBERO_SUITES)


def base_frame(suite: str) -> str:
    """The link that poses of a suite refer to, known before it is built."""
    return LIBERO_FRAME if suite in LIBERO_SUITES else panda.BASE_FRAME


def make_simulator(suite: str, render_size: int = 256, view: bool = False) -> Simulator:
    """Build the simulator of a suite.

    ``render_size``: edge of the images in pixels. ``view``: open MuJoCo's window too (not with
    LIBERO). MuJoCo is imported here, an OpenGL context is made at the first image. Raises
    ConfigurationError for an unknown suite, SimulatorError if MuJoCo or LIBERO cannot be used or
    there is no display to view on.
    """
    if suite not in suite_names():
        raise ConfigurationError(f"unknown suite {suite!r}; known: {', '.join(suite_names())}")
    if suite in LIBERO_SUITES:
        from .libero import make_libero

        return make_libero(suite, render_size, view)
    try:
        importlib.import_module("mujoco")
    # ImportError if it is missing, RuntimeError for a bad MUJOCO_GL, AttributeError from PyOpenGL
    except Exception as error:
        raise SimulatorError(
            f"MuJoCo cannot be imported ({type(error).__name__}: {error}); pip install "
            f"'mujoco>=3.8', and check MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}"
        ) from error
    from .tabletop.world import TabletopSimulator

    return TabletopSimulator(SUITES[suite], render_size, view)
