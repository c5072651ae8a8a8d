"""Made-up camera streams with known motion, for those without a simulator or a robot."""
from __future__ import annotations

import numpy as np

from specprune_ros.analysis.recording import Recording
from specprune_ros.errors import ConfigurationError

KINDS = ("square", "brightness", "static")
CONTROL_PERIOD = 0.05  # s
TOP_SPEED = 0.3  # m/s, above the controller's thresholds
_WAYS_PER_METRE = 2.0  # widths of the picture that the square moves per metre of the arm
_SQUARE = (205, 60, 45)
_INSTRUCTION = "pick up the red square and place it on the plate"


def synthetic_recording(
    kind: str,
    steps: int = 41,
    seed: int = 0,
    size: int = 256,
    cameras: tuple[str, ...] = ("primary", "wrist"),
) -> Recording:
    """A stream of ``steps`` control periods at 20 Hz with pictures of ``size`` px.

    ``square``: a flat-coloured square slides over a textured background, from rest to TOP_SPEED
    and back, and the end-effector velocity is its own. ``brightness``: the still scene gets from
    0.6 to 1.2 times as bright. ``static``: nothing changes. Raises ConfigurationError.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"unknown synthetic stream '{kind}'; known: {', '.join(KINDS)}")
    if steps < 1 or size < 32:
        raise ConfigurationError(
            f"a synthetic stream needs steps >= 1 and size >= 32, not {steps} and {size}"
        )
    scenes = np.stack([_background(seed, k, size) for k in range(len(cameras))])
    speed = np.zeros(steps)
    if kind == "square":
        phase = np.linspace(0.0, 1.0, steps)
        speed = TOP_SPEED * (1.0 - np.abs(2.0 * phase - 1.0))
    travelled = np.concatenate([[0.0], np.cumsum(speed)[:-1]]) * CONTROL_PERIOD  # m
    gain = np.linspace(0.6, 1.2, steps) if kind == "brightness" else np.ones(steps)
    frames = np.stack([_frame(scenes, way, g, size) for way, g in zip(travelled, gain)])

    twists = np.zeros((steps, 6))
    twists[:, 1] = speed
    proprio = np.tile([0.45, -0.15, 0.20, np.pi, 0.0, 0.0, 0.04, -0.04], (steps, 1))
    proprio[:, 1] += travelled
    return Recording(
        cameras=cameras,
        frames=frames,
        stamps=np.arange(steps) * CONTROL_PERIOD,
        instruction=_INSTRUCTION,
        control_period=CONTROL_PERIOD,
        proprio=proprio,
        ee_twists=twists,
        seed=seed,
        source=f"synthetic {kind}",
    )


def _background(seed: int, camera: int, size: int) -> np.ndarray:
    """Texture float64 [size, size, 3]: coarse blotches with fine grain on them."""
    rng = np.random.default_rng([seed, camera])
    cell = -(-size // 16)
    coarse = np.kron(rng.uniform(60, 170, (16, 16, 3)), np.ones((cell, cell, 1)))
    return coarse[:size, :size] + rng.normal(0.0, 12.0, (size, size, 3))


def _frame(scenes: np.ndarray, travelled: float, gain: float, size: int) -> np.ndarray:
    """uint8 [n_cam, size, size, 3] with the square at the place it has travelled to (m)."""
    frame = scenes * gain
    side = size // 5
    room = size - side
    # There and back again, so that a stream of any length stays in the picture.
    way = (0.1 * size + travelled * _WAYS_PER_METRE * size) % (2 * room)
    left = round(way if way <= room else 2 * room - way)
    top = round(0.45 * size)
    frame[:, top : top + side, left : left + side] = np.multiply(_SQUARE, gain)
    return np.clip(np.rint(frame), 0, 255).astype(np.uint8)
