"""Off-screen images and a window for a MuJoCo model."""
from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable

import mujoco
import numpy as np

from ..errors import SimulatorError
from .gl import create_context


class OffscreenRenderer:
    """Renders fixed cameras to RGB images without shadows.

    The GL context is made in the thread of the first :meth:`render`; render and close there.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        self._model = model
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._gl = create_context(width, height)
        self._scene = mujoco.MjvScene(model, maxgeom=500)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        try:
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        except mujoco.FatalError as error:
            self._gl.free()
            self._gl = None
            raise SimulatorError(f"MuJoCo cannot use the OpenGL context: {error}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        # Contexts that live until the interpreter is torn down complain from their __del__.
        self._at_exit = _closer(self)
        atexit.register(self._at_exit)

    def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Image uint8 [height, width, 3], RGB, upright."""
        if self._gl is None:
            raise SimulatorError("the renderer is closed")
        self._gl.make_current()
        self._camera.fixedcamid = self._model.camera(camera).id
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value, self._scene,
        )
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        rectangle = self._rectangle
        pixels = np.empty((rectangle.height, rectangle.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, rectangle, self._context)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's rows run upwards

    def close(self) -> None:
        """Free the context; safe to call twice."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None
            atexit.unregister(self._at_exit)


def _closer(renderer: OffscreenRenderer) -> Callable[[], None]:
    """Closes a renderer that is still there, without keeping it alive."""
    reference = weakref.ref(renderer)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    return close


class Viewer:
    """MuJoCo's window. Closing it does not stop the simulation."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Raises SimulatorError where there is no display."""
        if sys.platform.startswith("linux") and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise SimulatorError(
                "view=True needs a display and neither DISPLAY nor WAYLAND_DISPLAY is set; "
                "run without the window, or log in with a display (ssh -X)"
            )
        import mujoco.viewer

        self._handle = mujoco.viewer.launch_passive(
            model, data, show_left_ui=False, show_right_ui=False
        )

    def sync(self) -> None:
        """Show the present state."""
        if self._handle.is_running():
            self._handle.sync()

    def close(self) -> None:
        self._handle.close()
