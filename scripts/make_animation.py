#!/usr/bin/env python3
"""Make docs/pictures/demo.gif: dense beside pruned from the same initial states, kept patches lit.

    .venv/bin/python scripts/make_animation.py [--seeds 2000000 2000001] [--out FILE]

Each episode is played twice, with every token and with ``--pruning``. The newest query of each
policy shades its pictures as ``vla_node`` shades ``kept_patches``: the brighter a patch, the more
decoder layers it entered. Episodes are those of ``specprune eval`` (same world, same inputs of the
policy), from initial states for choosing settings, never those of results.
"""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from specprune_ros.analysis.episodes import PolicyActor, play
from specprune_ros.analysis.threads import one_thread
from specprune_ros.policy import Policy, load_policy
from specprune_ros.ros.overlay import depth_of_patches, draw
from specprune_ros.share import checkpoint_dir
from specprune_ros.sim import Simulator, make_simulator
from specprune_ros.sim.tabletop.suites import COLOURS
from specprune_ros.sim.view import Measured
from specprune_ros.types import Mode

ROOT = Path(__file__).resolve().parents[1]
PANEL, GAP, MIDDLE, TOP, BOTTOM = 196, 4, 16, 26, 46  # px
CAMERAS = ("primary", "wrist")
BACKGROUND, TEXT, DIM = (26, 28, 32), (240, 240, 240), (160, 164, 170)
GREEN, AMBER, RED = (98, 200, 120), (240, 180, 70), (230, 100, 100)
LIMIT = 3 * 2**20  # bytes


@dataclass(frozen=True)
class Shown:
    """One moment of an episode: pictures uint8 [PANEL, PANEL, 3], and what the caption says."""

    pictures: tuple[np.ndarray, ...]
    instruction: str
    step: int
    tokens: float  # that entered a decoder layer, mean over the layers of the newest query
    dense_tokens: int
    fine: bool
    outcome: bool | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[2_000_000, 2_000_001],
                        help="initial states")
    parser.add_argument("--suite", default="tabletop")
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--pruning", default="specprune")
    parser.add_argument("--every", type=int, default=2, help="control periods per frame")
    parser.add_argument("--colours", type=int, default=80)
    parser.add_argument("--max-steps", type=int, help="control periods per episode")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures/demo.gif")
    args = parser.parse_args()
    frames: list[Image.Image] = []
    simulator = make_simulator(args.suite)
    dense = load_policy(checkpoint_dir(args.checkpoint), pruning="off",
                        control_period=simulator.control_period)
    policies = (dense, dense.with_pruning(args.pruning))
    try:
        with one_thread():
            for seed in args.seeds:
                sides = [episode(simulator, policy, seed, args.max_steps) for policy in policies]
                for policy, moments in zip(policies, sides):
                    print(f"initial state {seed}, {policy.pruner.name}: "
                          f"{'success' if moments[-1].outcome else 'not solved'} after "
                          f"{moments[-1].step} control periods")
                frames += side_by_side(sides, [policy.pruner.name for policy in policies],
                                       args.every)
    finally:
        simulator.close()
    save(frames, args.out, round(args.every * simulator.control_period * 1e3), args.colours)
    print(f"{args.out}: {len(frames)} frames, {args.out.stat().st_size / 2**20:.2f} MiB")


def episode(simulator: Simulator, policy: Policy, seed: int,
            max_steps: int | None) -> list[Shown]:
    """Every control period of an episode; the last one has the outcome."""
    actor = PolicyActor(policy)
    policy.warm_up()
    moments, success = [], False
    for step in play(Measured(simulator), actor, seed, max_steps=max_steps):
        report = actor.chunks[-1].report
        depth = depth_of_patches(report)
        pictures = tuple(scaled(draw(step.observation.images[name], depth[name], True))
                         for name in CAMERAS)
        tokens = float(np.mean([sum(layer) for layer in report.visual_tokens_per_layer]))
        moments.append(Shown(pictures, simulator.instruction, len(moments) + 1, tokens,
                             report.visual_tokens_in, report.mode is Mode.FINE))
        success = step.success
    last = moments[-1]
    return [*moments, Shown(last.pictures, last.instruction, last.step, last.tokens,
                            last.dense_tokens, last.fine, success)]


def scaled(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((PANEL, PANEL), Image.Resampling.LANCZOS))


def side_by_side(sides: list[list[Shown]], names: list[str], every: int) -> list[Image.Image]:
    """The two episodes in step; the one that ends first stays, both stay a while at the end."""
    length = max(map(len, sides))
    chosen = [*range(0, length, every)] + [length - 1] * 12
    return [compose([side[min(i, len(side) - 1)] for side in sides], names) for i in chosen]


def compose(moments: list[Shown], names: list[str]) -> Image.Image:
    side = 2 * PANEL + GAP
    frame = Image.new("RGB", (2 * side + MIDDLE, TOP + PANEL + BOTTOM), BACKGROUND)
    canvas = ImageDraw.Draw(frame)
    font, small = (ImageFont.load_default(size) for size in (15, 13))
    for k, (moment, name) in enumerate(zip(moments, names)):
        left = k * (side + MIDDLE)
        title = "dense" if name == "off" else f"pruned ({name})"
        canvas.text((left + 4, 5), title, TEXT, font)
        canvas.text((left + side - 4, 7), f"step {moment.step}", DIM, small, anchor="ra")
        for i, picture in enumerate(moment.pictures):
            frame.paste(Image.fromarray(picture), (left + i * (PANEL + GAP), TOP))
        y = TOP + PANEL + 6
        canvas.text((left + 4, y), moment.instruction, DIM, small)
        share = moment.tokens / moment.dense_tokens
        text = f"{moment.tokens:.0f} of {moment.dense_tokens} visual tokens per layer"
        canvas.rectangle((left + 4, y + 23, left + 104, y + 33), fill=(62, 66, 72))
        canvas.rectangle((left + 4, y + 23, left + 4 + 100 * share, y + 33), fill=(90, 160, 220))
        canvas.text((left + 112, y + 19), text, DIM, small)
        if moment.outcome is not None:
            word, colour = ("SUCCESS", GREEN) if moment.outcome else ("NOT SOLVED", RED)
            canvas.text((left + side - 4, y + 18), word, colour, font, anchor="ra")
        elif name != "off":
            word, colour = ("fine", AMBER) if moment.fine else ("coarse", GREEN)
            canvas.text((left + side - 4, y + 18), word, colour, font, anchor="ra")
    return frame


def save(frames: list[Image.Image], path: Path, period_ms: int, colours: int) -> None:
    """A GIF with one palette: what does not change between frames then costs nothing."""
    # Median cut counts pixels: colours that matter and are rare are given a band of their own.
    rare = [GREEN, AMBER, RED, *(tuple(round(255 * v * shade) for v in colour)
                                 for colour in COLOURS.values() for shade in (0.3, 0.6, 0.9))]
    width, height, band = *frames[0].size, 12
    sample = Image.new("RGB", (width, 4 * height + band * len(rare)))
    for i in range(4):
        sample.paste(frames[i * (len(frames) - 1) // 3], (0, i * height))
    for i, colour in enumerate(rare):
        top = 4 * height + i * band
        sample.paste(colour, (0, top, width, top + band))
    palette = sample.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(path, save_all=True, append_images=small[1:], duration=period_ms, loop=0,
                  optimize=False)
    if path.stat().st_size > LIMIT:
        raise SystemExit(f"{path} has {path.stat().st_size / 2**20:.1f} MiB, more than 3: use "
                         "fewer --colours, fewer --seeds or a larger --every")


if __name__ == "__main__":
    main()
