"""A backbone: OpenVLA-OFT whose visual features are plain colours instead of two ViTs.

    pip install ./examples
    python -m specprune_examples.colour_backbone out/colours
    specprune compare --checkpoint out/colours --synthetic square --methods off --json out.json

Its checkpoints say ``"model_type": "patch_colours"`` in config.json, by which they are told from
others. Decoder, prompt, pruning and head are those of OpenVLA-OFT; the weights are random.
"""
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from specprune_ros.share import checkpoint_dir
from specprune_ros.vla.openvla_oft.config import PATCH
from specprune_ros.vla.openvla_oft.model import LoadedCheckpoint, OpenVLAOFT, load_model


class PatchColours(OpenVLAOFT):
    """The network, with an encoder of its own."""

    model_type = "patch_colours"

    def encode_images(
        self, pixels: torch.Tensor, side: Any = None, fused: bool = True
    ) -> torch.Tensor:
        """float32 [n_cam, 6, S, S] -> patch features [1, n_cam * N, F]: mean colours, repeated."""
        pixels = pixels.to(self.device, self.dtype)
        colours = F.avg_pool2d(pixels, PATCH).flatten(2).transpose(1, 2)  # [n_cam, N, 6]
        width = self.config.dino.width + self.config.siglip.width
        repeated = colours.repeat(1, 1, -(-width // colours.shape[-1]))[..., :width]
        return repeated.reshape(1, -1, width)


def load(directory: str | Path, device: str, dtype: str, action_head: str) -> LoadedCheckpoint:
    """The entry point: called for every checkpoint whose config.json has the model_type above."""
    return load_model(directory, device, dtype, action_head, network=PatchColours)


def write(directory: Path) -> None:
    """A checkpoint of this backbone, from the untrained one of the package."""
    shutil.copytree(checkpoint_dir("specprune-tiny"), directory)
    config = json.loads((directory / "config.json").read_text())
    config["model_type"] = PatchColours.model_type
    (directory / "config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
