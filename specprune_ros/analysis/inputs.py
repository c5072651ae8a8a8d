"""Options that the experiments share: which stream, which checkpoint, where the results go."""
from __future__ import annotations

import argparse
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from specprune_ros.analysis.measure import total_queries
from specprune_ros.analysis.recording import Recording, load_pooled
from specprune_ros.analysis.synthetic import KINDS, synthetic_recording
from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Policy, load_policy
from specprune_ros.share import checkpoint_dir
from specprune_ros.sim.libero import SUITES as LIBERO_SUITES
from specprune_ros.sim.libero.suites import PYTHON_VARIABLE
from specprune_ros.types import DTYPES

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Streams and a dense policy; ``policy.with_pruning`` makes the others.

    every: steps between two queries. max_queries: per recording, or None.
    """

    recordings: list[Recording]
    policy: Policy
    checkpoint: Path
    every: int
    max_queries: int | None

    @property
    def queries(self) -> int:
        """Queries that one method makes."""
        return total_queries(self.recordings, self.every, self.max_queries)


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """--checkpoint and how to load it."""
    group = parser.add_argument_group("checkpoint")
    group.add_argument("--checkpoint", type=Path, metavar="DIR",
                       help="OpenVLA-OFT checkpoint: a directory, or the name of one that comes "
                            "with the package (without it: the trained one)")
    group.add_argument("--device", default="cpu", help="torch device")
    group.add_argument("--dtype", default="float32", choices=DTYPES,
                       help="type of the weights; auto: bfloat16 where the device is fast with it")
    group.add_argument("--unnorm-key", metavar="KEY", help="data set whose statistics are used")
    group.add_argument("--chunk-length", type=_positive, default=8, metavar="C",
                       help="actions per query that the checkpoint was trained for")


def add_libero_argument(parser: argparse.ArgumentParser) -> None:
    """--libero-python; :func:`use_libero_python` puts it into force."""
    parser.add_argument("--libero-python", metavar="PATH",
                        help="python of an environment that has LIBERO, for suites libero_* "
                        f"(without it: ${PYTHON_VARIABLE}, or this environment)")


def use_libero_python(args: argparse.Namespace) -> None:
    """Have LIBERO's suites, here and in processes started from here, use --libero-python.

    Raises ConfigurationError where it would have no effect.
    """
    if args.libero_python is None:
        return
    if args.suite not in LIBERO_SUITES:
        raise ConfigurationError(
            f"--libero-python would have no effect on suite '{args.suite}': leave it out"
        )
    os.environ[PYTHON_VARIABLE] = args.libero_python


def add_stream_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--recording or --synthetic, and the checkpoint."""
    group = parser.add_argument_group("stream")
    source = group.add_mutually_exclusive_group(required=required)
    source.add_argument("--recording", type=Path, metavar="PATH",
                        help="a recording (.npz), or a folder of them")
    source.add_argument("--synthetic", nargs="*", choices=KINDS, metavar="KIND",
                        help=f"made-up streams: {', '.join(KINDS)}; all of them without a name")
    group.add_argument("--steps", type=_positive, default=41, help="length of a synthetic stream")
    group.add_argument("--size", type=_positive, default=256, metavar="PX",
                       help="edge of the pictures of a synthetic stream")
    group.add_argument("--seed", type=int, default=0, help="seed of synthetic streams and episodes")
    group.add_argument("--every", type=_positive, metavar="STEPS",
                       help="steps between two queries (without it: the chunk length)")
    group.add_argument("--max-queries", type=_positive, metavar="N",
                       help="at most this many queries per recording")
    add_checkpoint_arguments(parser)


def checkpoint_path(args: argparse.Namespace) -> Path:
    """The checkpoint asked for (a directory, or the name of an installed one), or the default."""
    return checkpoint_dir(str(args.checkpoint or ""))


def load_streams(args: argparse.Namespace) -> list[Recording]:
    """The recordings or synthetic streams asked for. Raises RecordingError."""
    if args.recording is not None:
        return load_pooled(args.recording)
    kinds = args.synthetic or KINDS
    return [synthetic_recording(kind, args.steps, args.seed, args.size) for kind in kinds]


def load_inputs(args: argparse.Namespace) -> Inputs:
    """Streams and policy. Raises RecordingError, CheckpointError or ConfigurationError."""
    recordings = load_streams(args)
    periods = sorted({recording.control_period for recording in recordings})
    if len(periods) > 1:
        raise ConfigurationError(
            f"the recordings have control periods of {', '.join(map(str, periods))} s: analyse "
            "those of one period at a time"
        )
    policy = load_dense(args, periods[0])
    if policy.uses_proprio and any(recording.proprio is None for recording in recordings):
        _log.warning("a recording has no proprio: the token is left out, which the checkpoint "
                     "was not trained for")
    every = args.every or policy.chunk_length
    return Inputs(recordings, policy, checkpoint_path(args), every, args.max_queries)


def load_dense(
    args: argparse.Namespace, control_period: float, weights: str = "full"
) -> Policy:
    """The checkpoint without pruning. weights: as for ``load_policy``."""
    return load_policy(
        checkpoint_path(args),
        device=args.device,
        dtype=args.dtype,
        unnorm_key=args.unnorm_key,
        pruning="off",
        chunk_length=args.chunk_length,
        control_period=control_period,
        weights=weights,
    )


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, not {text!r}")
    return value
