"""``specprune record-sim``: episodes of a simulator, or synthetic streams, as recordings."""
from __future__ import annotations

import argparse
from pathlib import Path

from specprune_ros.analysis.episodes import Actor, ExpertActor, PolicyActor, record_episode
from specprune_ros.analysis.inputs import (
    add_checkpoint_arguments,
    add_libero_argument,
    load_dense,
    use_libero_python,
)
from specprune_ros.analysis.output import progress_bar, say_written
from specprune_ros.analysis.recording import Recording
from specprune_ros.analysis.synthetic import KINDS, synthetic_recording
from specprune_ros.analysis.threads import one_thread
from specprune_ros.analysis.writing import check_output_folder
from specprune_ros.errors import ConfigurationError
from specprune_ros.sim import Simulator, make_simulator, suite_names

_OF_A_POLICY = ("pruning", "checkpoint", "device", "dtype", "unnorm_key", "chunk_length")
# Of the options that are not None unless given.
_DEFAULTS = {"actor": "expert", "pruning": "off", "device": "cpu", "dtype": "float32",
             "chunk_length": 8}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder for the recordings, one .npz per episode")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--suite", choices=suite_names(), default="tabletop",
                        help="suite of the simulator")
    source.add_argument("--synthetic", nargs="*", choices=KINDS, metavar="KIND",
                        help=f"no simulator: {', '.join(KINDS)}; all of them without a name")
    parser.add_argument("--episodes", type=int, default=1, help="episodes, or seeds per KIND")
    parser.add_argument("--seed", type=int, default=0,
                        help="seed of the first episode; the next ones count up from it")
    parser.add_argument("--task", type=int, metavar="INDEX",
                        help="task of every episode (without it: the seed chooses)")
    parser.add_argument("--max-steps", type=int, metavar="N",
                        help="control periods per episode (without it: the suite's, synthetic: 41)")
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="edge of the pictures")
    parser.add_argument("--actor", choices=("expert", "policy"), default="expert", help="who acts")
    parser.add_argument("--pruning", default="off", metavar="METHOD",
                        help="pruning method of --actor policy")
    add_libero_argument(parser)
    add_checkpoint_arguments(parser)


def refuse_without_effect(args: argparse.Namespace) -> None:
    """Raise ConfigurationError for options that would change nothing in what is recorded."""
    if args.synthetic is not None:
        names = ("task", "actor", "libero_python", *_OF_A_POLICY)
        reason = "--synthetic needs no actor, task or simulator"
    elif args.actor == "expert":
        names, reason = _OF_A_POLICY, "the expert acts (--actor policy asks for a policy)"
    else:
        return
    unused = [f"--{n.replace('_', '-')}" for n in names if getattr(args, n) != _DEFAULTS.get(n)]
    if unused:
        raise ConfigurationError(f"{', '.join(unused)} would have no effect, as {reason}: leave "
                                 f"{'it' if len(unused) == 1 else 'them'} out")


def run(args: argparse.Namespace) -> int:
    refuse_without_effect(args)
    if args.episodes < 1:
        raise ConfigurationError(f"--episodes is {args.episodes}; it must be >= 1")
    if args.max_steps is not None and args.max_steps < 1:
        raise ConfigurationError(f"--max-steps is {args.max_steps}; it must be >= 1")
    check_output_folder(args.out)
    written = _synthetic(args) if args.synthetic is not None else _simulated(args)
    say_written(written)
    return 0


def _synthetic(args: argparse.Namespace) -> list[Path]:
    written = []
    for kind in args.synthetic or KINDS:
        for seed in range(args.seed, args.seed + args.episodes):
            recording = synthetic_recording(kind, args.max_steps or 41, seed, args.size)
            written.append(recording.save(args.out / f"synthetic_{kind}_{seed:05d}.npz"))
    return written


def _simulated(args: argparse.Namespace) -> list[Path]:
    use_libero_python(args)
    simulator = make_simulator(args.suite, render_size=args.size)
    written = []
    try:
        actor = _actor(args, simulator)
        with progress_bar("recording", args.episodes) as progress, one_thread():
            for seed in range(args.seed, args.seed + args.episodes):
                recording = record_episode(simulator, actor, seed, args.task, args.max_steps)
                written.append(recording.save(args.out / _name(recording)))
                progress()
    finally:
        simulator.close()
    return written


def _actor(args: argparse.Namespace, simulator: Simulator) -> Actor:
    if args.actor == "expert":
        return ExpertActor()
    policy = load_dense(args, simulator.control_period)
    policy.set_pruning(args.pruning)
    return PolicyActor(policy)


def _name(recording: Recording) -> str:
    return f"{recording.suite}_{recording.seed:05d}.npz"
