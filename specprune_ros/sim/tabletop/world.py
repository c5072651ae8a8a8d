"""The embedded simulator: one suite of tabletop worlds behind the ``Simulator`` protocol."""
from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from ...errors import ActionError, ConfigurationError, SimulatorError
from ...robot.rotations import (
    align_quaternion_sign,
    matrix_to_quaternion,
    quaternion_to_axis_angle,
)
from ..base import SimObservation
from ..render import OffscreenRenderer, Viewer
from .control import PoseController
from .layout import Layout, sample_layout
from .mjcf import (
    AGENTVIEW,
    TIMESTEP,
    TOOL_SITE,
    WRIST_CAMERA,
    clutter_body,
    cube_body,
    cube_geom,
    free_joint,
    world_mjcf,
)
from .panda import BASE_FRAME, FINGER_JOINTS, JOINT_NAMES, TOOL_FRAME
from .spec import PUSH, Destination, TabletopSpec, Task
from .urdf import robot_description

CONTROL_PERIOD = 0.05  # s, 20 Hz
WAIT_STEPS = 10  # LIBERO waits as long for objects to settle
_WAIT_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_DIVERGED = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)


@dataclass(frozen=True)
class TabletopState:
    """Everything that decides the future of an episode; see ``TabletopSimulator.get_state``."""

    physics: np.ndarray
    goal_rotation: np.ndarray
    colours: tuple[str, ...]
    task: int
    steps: int


@dataclass(frozen=True)
class Scene:
    """What a scripted expert may know (privileged: not from images). Base frame, m and rad.

    finger_opening: travel of one finger, 0 closed. cube_yaw: about z, in [-pi/4, pi/4].
    destination: centre of its supporting surface.
    """

    task: Task
    tool_position: np.ndarray  # [3]
    tool_rotation: np.ndarray  # [3, 3]
    finger_opening: float
    cube_position: np.ndarray  # [3]
    cube_yaw: float
    cube_half_size: float
    destination: np.ndarray  # [3]


class TabletopSimulator:
    """A suite of the tabletop. See ``sim/base.py`` for the protocol; not thread-safe.

    ``success`` is about the present state and is not latched: an episode ends at the first
    control period in which it holds, as in LIBERO.
    """

    control_period = CONTROL_PERIOD
    base_frame = BASE_FRAME
    tool_frame = TOOL_FRAME
    trials = None

    def __init__(self, spec: TabletopSpec, render_size: int = 256, view: bool = False) -> None:
        if not 8 <= render_size <= 2048:
            raise ConfigurationError(f"render_size is {render_size}; it must be 8 to 2048 pixels")
        self.spec = spec
        self.suite = spec.suite
        self.max_steps = spec.max_steps
        self.tasks = tuple(task.instruction for task in spec.tasks)
        self._size = render_size
        self._model = mujoco.MjModel.from_xml_string(world_mjcf(spec, render_size))
        self._data = mujoco.MjData(self._model)
        self._controller = PoseController(self._model)
        self._site = self._model.site(TOOL_SITE).id
        joints = [self._model.joint(name) for name in JOINT_NAMES]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._fingers = np.array([self._model.joint(name).qposadr[0] for name in FINGER_JOINTS])
        self._substeps = round(CONTROL_PERIOD / TIMESTEP)
        self._colours: tuple[str, ...] = ()
        self._task: int | None = None
        self._steps = 0
        self._renderer: OffscreenRenderer | None = None
        self._viewer = Viewer(self._model, self._data) if view else None

    # ------------------------------------------------------------------ protocol

    @property
    def task(self) -> Task:
        """The task of the running episode. Raises SimulatorError before the first reset."""
        return self.spec.tasks[self._running_task()]

    @property
    def instruction(self) -> str:
        """The running task in words, lower case."""
        return self.task.instruction

    def reset(
        self, task: int | None, init_state: int, render: bool = True
    ) -> SimObservation:
        """Start the episode of seed ``init_state``; wait steps included.

        ``task`` is an index into ``tasks`` or None: then the seed chooses. Where things lie
        depends on the seed alone. Raises ConfigurationError for a task or seed out of range.
        """
        layout = sample_layout(self.spec, task, init_state)
        mujoco.mj_resetData(self._model, self._data)
        self._place(layout)
        self._task = layout.task
        self._controller.start(self._data, layout.arm_positions)
        for _ in range(WAIT_STEPS):
            self._advance(_WAIT_ACTION)
        self._steps = 0
        return self.observe(render)

    def observe(self, render: bool = True) -> SimObservation:
        """The present observation; without ``render`` the images are left out."""
        images = {}
        if render:
            images = {"primary": self.render(AGENTVIEW), "wrist": self.render(WRIST_CAMERA)}
        data = self._data
        twist = np.zeros(6)
        mujoco.mj_objectVelocity(
            self._model, data, mujoco.mjtObj.mjOBJ_SITE, self._site, twist, 0
        )
        return SimObservation(
            stamp=self._steps * CONTROL_PERIOD,
            images=images,
            proprio=self._proprio(),
            joint_names=JOINT_NAMES,
            joint_positions=data.qpos[self._qpos].copy(),
            joint_velocities=data.qvel[self._dofs].copy(),
            ee_twist=np.concatenate([twist[3:], twist[:3]]),  # MuJoCo has angular first
        )

    def step(self, action: np.ndarray) -> bool:
        """Apply one action [7] for one control period; returns :meth:`success`.

        Raises ActionError if the action is not [7] finite numbers.
        """
        self._running_task()
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ActionError(f"an action is 7 finite numbers, got {action!r}")
        self._advance(action)
        self._steps += 1
        return self.success()

    def success(self) -> bool:
        """Whether the task's cube rests at its destination and the arm has let go of it."""
        scene = self.scene()
        offset = scene.cube_position - scene.destination
        velocity = self._data.joint(free_joint(cube_body(self._cube()))).qvel[:3]
        rests = (
            float(np.hypot(offset[0], offset[1])) < self.spec.tolerance
            and abs(offset[2] - self.spec.cube_half_size) < 0.008
            and float(np.abs(velocity).max()) < 0.05
        )
        if scene.task.verb == PUSH:
            return rests
        released = scene.finger_opening > self.spec.cube_half_size + 0.005
        return rests and released and scene.tool_position[2] > scene.cube_position[2] + 0.02

    def robot_description(self) -> str:
        """URDF of the arm."""
        return robot_description()

    def close(self) -> None:
        """Free the GL context and close the window; safe to call twice."""
        for part in (self._renderer, self._viewer):
            if part is not None:
                part.close()
        self._renderer = self._viewer = None

    # ------------------------------------------------------------------ beyond the protocol

    def render(self, camera: str) -> np.ndarray:
        """Image uint8 [H, W, 3] of a camera by its name in the model."""
        if self._renderer is None:
            self._renderer = OffscreenRenderer(self._model, self._size, self._size)
        return self._renderer.render(self._data, camera)

    def project(self, points: np.ndarray, camera: str) -> np.ndarray:
        """Points [n, 3] of the base frame -> pixel coordinates [n, 2] (column, row).

        NaN for points behind the camera; points outside the image have coordinates outside it.
        """
        view = self._data.cam(camera)
        local = (np.asarray(points) - view.xpos) @ view.xmat.reshape(3, 3)
        fovy = np.deg2rad(float(self._model.cam(camera).fovy[0]))
        focal = 0.5 * self._size / np.tan(fovy / 2)
        depth = np.where(local[:, 2] < -1e-6, -local[:, 2], np.nan)  # cameras look along -z
        half = self._size / 2
        return np.stack([half + focal * local[:, 0] / depth, half - focal * local[:, 1] / depth], 1)

    def set_task(self, task: int) -> None:
        """Ask for another task in the world as it is, to relabel an episode.

        Raises ConfigurationError if the task is unknown or its cube is not on the table.
        """
        if task not in self.possible_tasks():
            raise ConfigurationError(
                f"task {task} cannot be set: the table shows {', '.join(self._colours)} cubes; "
                f"possible tasks are {self.possible_tasks()}"
            )
        self._task = task

    def possible_tasks(self) -> tuple[int, ...]:
        """Indices of the tasks whose cube is on the table."""
        return tuple(
            index for index, task in enumerate(self.spec.tasks) if task.colour in self._colours
        )

    def get_state(self) -> TabletopState:
        """The state of the episode; :meth:`set_state` continues from it bit for bit."""
        task = self._running_task()
        physics = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, physics, _STATE)
        return TabletopState(
            physics, self._controller.goal_rotation.copy(), self._colours, task, self._steps
        )

    def set_state(self, state: TabletopState) -> None:
        """Return to a state of this suite."""
        mujoco.mj_resetData(self._model, self._data)  # warnings, contacts
        mujoco.mj_setState(self._model, self._data, state.physics, _STATE)
        self._controller.goal_rotation = state.goal_rotation.copy()
        self._paint(state.colours)
        self._task, self._steps = state.task, state.steps
        mujoco.mj_forward(self._model, self._data)

    def scene(self) -> Scene:
        """The privileged state that the scripted expert works from."""
        data, task = self._data, self.task
        cube = data.body(cube_body(self._cube()))
        heading = np.arctan2(cube.xmat[3], cube.xmat[0])
        return Scene(
            task=task,
            tool_position=data.site_xpos[self._site].copy(),
            tool_rotation=data.site_xmat[self._site].reshape(3, 3).copy(),
            finger_opening=float(data.qpos[self._fingers].min()),
            cube_position=cube.xpos.copy(),
            cube_yaw=float((heading + np.pi / 4) % (np.pi / 2) - np.pi / 4),
            cube_half_size=self.spec.cube_half_size,
            destination=self._destination_top(task),
        )

    # ------------------------------------------------------------------ parts

    def _running_task(self) -> int:
        if self._task is None:
            raise SimulatorError("no episode is running: call reset() first")
        return self._task

    def _advance(self, action: np.ndarray) -> None:
        self._controller.apply(self._data, action)
        mujoco.mj_step(self._model, self._data, self._substeps)
        # Bring poses and velocities up to the positions that the last substep ended with.
        mujoco.mj_forward(self._model, self._data)
        if any(self._data.warning[kind].number for kind in _DIVERGED):
            raise SimulatorError(
                f"suite {self.suite!r}: the physics diverged at {self._data.time:.2f} s; reset"
            )
        if self._viewer is not None:
            self._viewer.sync()

    def _place(self, layout: Layout) -> None:
        self._paint(layout.colours)
        for index, (xy, yaw) in enumerate(zip(layout.cube_xy, layout.cube_yaw, strict=True)):
            pose = self._data.joint(free_joint(cube_body(index))).qpos
            pose[:] = *xy, self.spec.cube_half_size, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
        for index, xy in enumerate(layout.clutter_xy):
            self._data.joint(free_joint(clutter_body(index))).qpos[:2] = xy
        for destination, xy in zip(self.spec.destinations, layout.destination_xy, strict=True):
            mocap = self._model.body(destination.name).mocapid[0]
            self._data.mocap_pos[mocap] = *xy, 0.0

    def _paint(self, colours: tuple[str, ...]) -> None:
        self._colours = colours
        for index, colour in enumerate(colours):
            self._model.geom(cube_geom(index)).rgba[:3] = self.spec.colours[colour]

    def _cube(self) -> int:
        """Index of the cube that the task asks for."""
        return self._colours.index(self.task.colour)

    def _destination_top(self, task: Task) -> np.ndarray:
        destination: Destination = next(
            candidate for candidate in self.spec.destinations
            if candidate.name == task.destination
        )
        return self._data.body(destination.name).xpos + (0.0, 0.0, destination.top)

    def _proprio(self) -> np.ndarray:
        rotation = self._data.site_xmat[self._site].reshape(3, 3)
        quaternion = align_quaternion_sign(matrix_to_quaternion(rotation))
        return np.concatenate([
            self._data.site_xpos[self._site],
            quaternion_to_axis_angle(quaternion),
            self._data.qpos[self._fingers] * (1.0, -1.0),
        ])
