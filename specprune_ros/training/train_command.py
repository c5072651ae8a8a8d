"""``specprune train``: a small policy in the published format, from collected demonstrations."""
from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from specprune_ros.errors import ConfigurationError
from specprune_ros.training.optimiser import OPTIMISERS
from specprune_ros.training.train import Progress as State
from specprune_ros.training.train import TrainConfig, train
from specprune_ros.vla.openvla_oft.tiny import Size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", required=True, help="directories of specprune collect")
    parser.add_argument("--out", type=Path, required=True, help="state, log and checkpoint")
    parser.add_argument("--name", default="specprune-tabletop", help="name of the checkpoint")
    parser.add_argument("--image-size", type=int, default=224, choices=(112, 224),
                        help="edge of the pictures that the towers see, px")
    parser.add_argument("--samples", type=int, default=1_500_000, help="training samples in all")
    parser.add_argument("--batch", type=int, default=64, help="samples per step")
    parser.add_argument("--optimiser", default="adamw", choices=OPTIMISERS,
                        help="muon: for the matrices between layers; the rest has AdamW")
    parser.add_argument("--learning-rate", type=float, default=1e-3,
                        help="at its highest")
    parser.add_argument(
        "--vision-share", type=float, default=TrainConfig.vision_share,
        help="share of the run that trains the towers alone, before the rest",
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0,
        help="end after so long, the schedule following the clock (0: after --samples)",
    )
    parser.add_argument(
        "--init", default="", metavar="DIR",
        help="trained checkpoint to start from; resolution and decoder layers may differ",
    )
    parser.add_argument(
        "--drop-share", type=float, default=0.0,
        help="share of the batches that lose patches of no interest behind layer 1",
    )
    parser.add_argument(
        "--grounding", type=float, default=0.0,
        help="weight of the loss on attention to what the instruction names",
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="processes that share every batch (CPU)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument(
        "--size",
        nargs="*",
        default=[],
        metavar="NAME=N",
        help=f"sizes of the network: {', '.join(f.name for f in fields(Size))}",
    )


def run(args: argparse.Namespace) -> int:
    config = TrainConfig(
        data=tuple(args.data),
        name=args.name,
        image_size=args.image_size,
        samples=args.samples,
        batch=args.batch,
        optimiser=args.optimiser,
        vision_share=args.vision_share,
        minutes=args.minutes,
        init=args.init,
        drop_share=args.drop_share,
        grounding=args.grounding,
        processes=args.processes,
        learning_rate=args.learning_rate,
        bf16=args.bf16,
        device=args.device,
        threads=args.threads,
        seed=args.seed,
        size=_size(args.size),
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} samples"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("train", total=config.samples, note="")

        def show(state: State) -> None:
            losses = " ".join(f"{name} {value:.3f}" for name, value in state.losses.items())
            note = f"{losses}  {state.rate:.0f}/s"
            progress.update(bar, completed=state.done, description=state.stage, note=note)

        train(config, args.out, show)
    return 0


def _size(settings: list[str]) -> Size:
    known = {f.name for f in fields(Size)}
    values = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in known or not value.isdigit():
            raise ConfigurationError(
                f"--size {setting}: expected NAME=N with a name of {', '.join(sorted(known))}"
            )
        values[name] = int(value)
    return Size(**values)
