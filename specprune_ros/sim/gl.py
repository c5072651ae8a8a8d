"""Off-screen OpenGL for MuJoCo: which backend works here, and a context of it.

MuJoCo's own choice (``MUJOCO_GL``) is read once, when it is imported, and without the variable it
wants a display. The context is therefore made here, from the backend's own module, so that it
does not matter who imported MuJoCo first.
"""
from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import Any

from ..errors import SimulatorError

REMEDY = (
    "install a software renderer: `apt-get install libegl1 libgl1 libgl1-mesa-dri` (EGL) or "
    "`apt-get install libosmesa6` (OSMesa); MUJOCO_GL=egl or MUJOCO_GL=osmesa chooses between them"
)
_DISABLED = ("disable", "disabled", "off", "false", "0")
_EGL_PLATFORM_DEVICE_EXT = 0x313F


def choose_backend() -> str:
    """``MUJOCO_GL`` where it is set, else egl, else osmesa, whichever works here first.

    Sets ``MUJOCO_GL`` to the choice, for the processes started from here as well. Raises
    SimulatorError with the packages to install if neither works, or if rendering is disabled.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked in _DISABLED:
        raise SimulatorError(f"rendering is disabled by MUJOCO_GL={asked}; unset it")
    if asked or not sys.platform.startswith("linux"):
        return asked
    # PyOpenGL binds to one platform per process, so the second cannot be tried after the first.
    bound = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    for backend, works in (("egl", _egl_works), ("osmesa", _osmesa_works)):
        if bound in ("", backend) and works():
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise SimulatorError(f"neither EGL nor OSMesa can render off screen here; {REMEDY}")


def create_context(width: int, height: int) -> Any:
    """A GL context (``make_current()``, ``free()``) of the chosen backend.

    It belongs to the thread that makes it current. Raises SimulatorError if the backend fails.
    """
    backend = choose_backend()
    module = f"mujoco.{backend}" if backend in ("egl", "osmesa", "glfw") else "mujoco"
    try:
        context = importlib.import_module(module).GLContext(width, height)
        context.make_current()
    # The backends fail with whatever their libraries raise: ImportError, AttributeError, GLError...
    except Exception as error:
        raise SimulatorError(
            f"off-screen rendering with MUJOCO_GL={backend or 'glfw'} failed "
            f"({type(error).__name__}: {error}); {REMEDY}"
        ) from error
    return context


def _egl_works() -> bool:
    """Whether a device display can be initialised, as mujoco.egl will do it."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    pointer = ctypes.c_void_p
    egl.eglGetProcAddress.restype = pointer
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    egl.eglTerminate.argtypes = [pointer]
    query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display_of = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query or not display_of:
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer, pointer)(query)
    display_of = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(display_of)
    devices = (pointer * 16)()
    count = ctypes.c_int(0)
    if not query(len(devices), devices, ctypes.byref(count)):
        return False
    for device in devices[: count.value]:
        display = display_of(_EGL_PLATFORM_DEVICE_EXT, device, None)
        if display and egl.eglInitialize(display, None, None):
            egl.eglTerminate(display)
            return True
    return False


def _osmesa_works() -> bool:
    for name in ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"):
        try:
            ctypes.CDLL(name)
            return True
        except OSError:
            continue
    return False
