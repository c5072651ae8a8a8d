"""Small policies and observations for the tests of the runtimes."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from specprune_ros.bench.models import Shape, random_model
from specprune_ros.policy import FixedSettings, Observation, Policy
from specprune_ros.pruning.presets import preset
from specprune_ros.runtime.choice import Runtime
from specprune_ros.runtime.fixed import DEFAULT

torch.set_num_threads(1)

SMALL = Shape(64, 96, 8, 4, (32, 3, 2, 64), (32, 3, 2, 64), 48, 576)
TASK = "pick up the red cube and place it on the plate"
PROPRIO = np.array([0.5, 0.0, 0.2, 3.1, 0.0, 0.0, 0.02, -0.02])
EXACT = FixedSettings(tile=1, prompt_tile=1)


def loaded(device: str = "cpu", dtype: str = "float32", shape: Shape = SMALL, seed: int = 0):
    """A random model whose attention is sharp enough for rows to differ."""
    model = random_model(shape, "test", device, dtype, seed)
    for layer in model.model.decoder.layers:
        layer.self_attn.q_proj.weight.mul_(4)
    return model


def policy(model, runtime: str = "eager", pruning="specprune", settings=DEFAULT) -> Policy:
    return Policy(model, None, False, False, pruning, 8, 0.05,
                  Runtime(model.model, runtime, settings))


def picture(seed: int, side: int = 224) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def observation(query: int, seed: int = 0, cameras: int = 2, task: str = TASK, proprio=PROPRIO,
                speed: float = 0.3, moved: int = 40) -> Observation:
    """Pictures in which some patches change from query to query."""
    images = {}
    for index, name in enumerate(("primary", "wrist", "wrist_2")[:cameras]):
        image = picture(seed + index)
        image[:moved, :moved] = picture(seed + index + 100 * (query + 1))[:moved, :moved]
        images[name] = image
    return Observation(images, task, proprio, 0.4 * query, np.array([speed, 0, 0, 0, 0, 0]))


def variant(name: str = "specprune", **dynamic):
    config = preset(name)
    return replace(config, dynamic=replace(config.dynamic, **dynamic)) if dynamic else config
