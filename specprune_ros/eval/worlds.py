"""Simulators seen through something: sensor noise and lag, blank pictures, a wrong instruction."""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, fields, replace

import numpy as np

from specprune_ros.errors import ConfigurationError
from specprune_ros.robot.gripper import OPEN
from specprune_ros.robot.kinematics import ArmKinematics, Pose
from specprune_ros.robot.rotations import align_quaternion_sign, quaternion_to_axis_angle
from specprune_ros.sim import SimObservation, Simulator
from specprune_ros.sim.view import SimulatorView

# One stream of random numbers for each purpose, whatever else is drawn.
_IMAGE, _JOINT, _INSTRUCTION = 1, 2, 3


@dataclass(frozen=True)
class Perturbation:
    """What real robots add to a simulator. All of it is seeded by the episode's initial state.

    image_noise: standard deviation of white Gaussian noise on every value of every picture, in
    grey levels of 255. joint_noise: the same on every position of the arm's joints, rad; proprio
    follows by forward kinematics, joint velocities and the twist are those of the noisy positions'
    differences. obs_delay_ms: age of an observation when the policy gets it, a whole number of
    control periods; its stamp is that of the exposure. action_delay_steps: control periods between
    an action and its execution; the arm holds still in the first ones.
    """

    image_noise: float = 0.0
    joint_noise: float = 0.0
    obs_delay_ms: float = 0.0
    action_delay_steps: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"{field.name} is {value}; it must be finite and >= 0")

    @classmethod
    def parse(cls, text: str) -> Perturbation:
        """From ``image_noise=8,action_delay_steps=2``. Raises ConfigurationError."""
        known = [field.name for field in fields(cls)]
        values: dict[str, float] = {}
        for part in filter(None, map(str.strip, text.split(","))):
            name, _, value = part.partition("=")
            number = int if name == "action_delay_steps" else float
            try:
                if name not in known or name in values:
                    raise ValueError
                values[name] = number(value)
            except ValueError:
                raise ConfigurationError(
                    f"perturbation '{part}': expected NAME=NUMBER, each name once, of "
                    f"{', '.join(known)} (the last one a whole number)"
                ) from None
        return cls(**values)

    @property
    def label(self) -> str:
        """As :meth:`parse` takes it, without what is not perturbed; empty for nothing."""
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return ",".join(f"{name}={value:g}" for name, value in values if value)

    def delay_steps(self, control_period: float) -> int:
        """Observation delay in control periods (s). Raises ConfigurationError for a part of one."""
        steps = self.obs_delay_ms / 1e3 / control_period
        if abs(steps - round(steps)) > 1e-6:
            raise ConfigurationError(
                f"obs_delay_ms={self.obs_delay_ms:g} is no whole number of control periods of "
                f"{control_period * 1e3:g} ms, at which the simulator is observed"
            )
        return round(steps)


class Blank(SimulatorView):
    """Every picture is black: what is left is proprio and the habits of the policy."""

    def observe(self, render: bool = True) -> SimObservation:
        seen = self._inner.observe(render)
        return replace(seen, images={n: np.zeros_like(i) for n, i in seen.images.items()})


class WrongInstruction(SimulatorView):
    """The policy is told another task of the same scene; success is that of the right one."""

    def _start(self, init_state: int, first: SimObservation) -> None:
        right = self._inner.instruction
        tasks = self._inner.tasks
        possible = getattr(self._inner, "possible_tasks", None)
        if possible is not None:
            tasks = [tasks[index] for index in possible()]
        others = sorted(set(tasks) - {right})
        if not others:
            raise ConfigurationError(
                f"suite '{self._inner.suite}' has no other instruction to give in this scene: "
                "leave out wrong_instruction"
            )
        rng = np.random.default_rng([init_state, _INSTRUCTION])
        self._told = others[int(rng.integers(len(others)))]

    @property
    def instruction(self) -> str:
        return self._told


class Perturbed(SimulatorView):
    """A simulator with a perturbation between it and the policy.

    The noise of a control period depends on the initial state and the period alone, so every
    method meets the same.
    """

    def __init__(self, simulator: Simulator, perturbation: Perturbation) -> None:
        super().__init__(simulator)
        self._p = perturbation
        self._delay = perturbation.delay_steps(simulator.control_period)
        self._kinematics: ArmKinematics | None = None
        if perturbation.joint_noise:
            self._kinematics = ArmKinematics.from_urdf(
                simulator.robot_description(), simulator.base_frame, simulator.tool_frame
            )

    def _start(self, init_state: int, first: SimObservation) -> None:
        self._seed, self._step = init_state, 0
        period = self._inner.control_period
        # The arm stood still before: older observations differ by their stamps and their noise.
        self._seen = deque(maxlen=self._delay + 1)
        for step in range(-self._delay, 1):
            self._seen.append(self._noisy(replace(first, stamp=first.stamp + step * period), step))
        idle = np.array([0.0] * 6 + [OPEN])
        self._commands = deque([idle] * self._p.action_delay_steps)

    def observe(self, render: bool = True) -> SimObservation:
        """``render`` is no use here: the picture may be wanted later."""
        return self._seen[0]

    def step(self, action: np.ndarray) -> bool:
        self._commands.append(np.array(action, np.float64))
        success = self._inner.step(self._commands.popleft())
        self._step += 1
        self._seen.append(self._noisy(self._inner.observe(), self._step))
        return success

    # ------------------------------------------------------------------ noise

    def _draw(self, kind: int, step: int) -> np.random.Generator:
        # Steps before the episode are negative, seeds are not.
        return np.random.default_rng([self._seed, kind, self._delay + 1 + step])

    def _noisy(self, seen: SimObservation, step: int) -> SimObservation:
        if self._p.image_noise:
            rng, images = self._draw(_IMAGE, step), {}
            for name, image in seen.images.items():
                noise = rng.standard_normal(image.shape, np.float32) * self._p.image_noise
                images[name] = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
            seen = replace(seen, images=images)
        return self._with_joint_noise(seen, step) if self._kinematics is not None else seen

    def _with_joint_noise(self, seen: SimObservation, step: int) -> SimObservation:
        # In rad: what carries LIBERO's arm moves along axes, and stands still.
        arm = [name in self._kinematics.rotary_joint_names for name in seen.joint_names]
        now, before = (
            self._draw(_JOINT, s).standard_normal(len(arm)) * arm * self._p.joint_noise
            for s in (step, step - 1)
        )
        positions = seen.joint_positions + now
        velocities = seen.joint_velocities + (now - before) / self._inner.control_period
        true, read = (
            self._tool(dict(zip(seen.joint_names, q)), dict(zip(seen.joint_names, v)))
            for q, v in ((seen.joint_positions, seen.joint_velocities), (positions, velocities))
        )
        # Differences, so that the conventions of the simulator's own proprio stay.
        proprio = np.array(seen.proprio, np.float64)
        proprio[:6] += read[0] - true[0]
        return replace(
            seen,
            proprio=proprio,
            joint_positions=positions,
            joint_velocities=velocities,
            ee_twist=seen.ee_twist + (read[1] - true[1]),
        )

    def _tool(self, positions: dict, velocities: dict) -> tuple[np.ndarray, np.ndarray]:
        """Pose as proprio has it [6], and twist [6]."""
        pose: Pose = self._kinematics.pose(positions)
        rotation = quaternion_to_axis_angle(align_quaternion_sign(pose.quaternion_xyzw))
        return (
            np.concatenate([pose.position, rotation]),
            self._kinematics.twist(positions, velocities),
        )
