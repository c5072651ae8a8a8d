"""Simulators behind one protocol (``base.Simulator``); none of them knows ROS.

A simulator of another package registers through the entry-point group ``specprune_ros.simulators``:
``suite = module:Class``. ``Class(render_size, view)`` is a Simulator, and ``Class.base_frame`` is
known before one is built.
"""
from __future__ import annotations

import importlib
import os

from ..errors import ConfigurationError, SimulatorError
from ..plugins import call_plugin, find_plugin, load_plugin, plugin_names, source
from .base import SimObservation, Simulator
from .libero.suites import BASE_FRAME as LIBERO_FRAME
from .libero.suites import SUITES as LIBERO_SUITES
from .tabletop import panda
from .tabletop.suites import SUITES

ENTRY_POINT_GROUP = "specprune_ros.simulators"
_KIND = "suite"

__all__ = ["SimObservation", "Simulator", "base_frame", "make_simulator", "suite_names"]


def suite_names() -> tuple[str, ...]:
    """Names of the suites that :func:`make_simulator` knows."""
    return (*_built_in(), *(n for n in plugin_names(ENTRY_POINT_GROUP) if n not in _built_in()))


def _built_in() -> tuple[str, ...]:
    return (*SUITES, *LIBERO_SUITES)


def base_frame(suite: str) -> str:
    """The link that poses of a suite refer to, known before it is built.

    Raises ConfigurationError for a suite of another package that does not say so.
    """
    entry = find_plugin(ENTRY_POINT_GROUP, suite, _KIND, _built_in())
    if entry is not None:
        frame = getattr(load_plugin(entry, "simulator"), "base_frame", None)
        if not isinstance(frame, str):
            raise ConfigurationError(
                f"the simulator {source(entry)} has no 'base_frame': make it an attribute of the "
                "class, as it must be known before a world is built"
            )
        return frame
    return LIBERO_FRAME if suite in LIBERO_SUITES else panda.BASE_FRAME


def make_simulator(suite: str, render_size: int = 256, view: bool = False) -> Simulator:
    """Build the simulator of a suite.

    ``render_size``: edge of the images in pixels. ``view``: open a window, too (not with LIBERO).
    MuJoCo is imported here, an OpenGL context is made at the first image. Raises
    ConfigurationError for an unknown suite, SimulatorError if MuJoCo or LIBERO cannot be used or
    there is no display to view on.
    """
    if suite not in suite_names():
        raise ConfigurationError(f"unknown suite {suite!r}; known: {', '.join(suite_names())}")
    entry = find_plugin(ENTRY_POINT_GROUP, suite, _KIND, _built_in())
    if entry is not None:
        return call_plugin(entry, "simulator", render_size, view)
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
