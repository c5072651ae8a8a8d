"""The command: from its arguments to episodes, figures, JSON and report."""
from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from specprune_ros.analysis.inputs import (
    add_checkpoint_arguments,
    add_libero_argument,
    checkpoint_path,
    use_libero_python,
)
from specprune_ros.analysis.output import UNTRAINED, provenance, say_written, write_json
from specprune_ros.errors import ConfigurationError
from specprune_ros.eval import paper
from specprune_ros.eval.curve import budget_arms, calibrate, curve
from specprune_ros.eval.engines import Engine, make_engine
from specprune_ros.eval.episode import Arm
from specprune_ros.eval.evaluate import Evaluation, progress_bar, with_references
from specprune_ros.eval.log import EpisodeLog
from specprune_ros.eval.match import Match, parse_targets
from specprune_ros.eval.methods import DEFAULT, DENSE, VIEWS, parse_methods
from specprune_ros.eval.plots import draw
from specprune_ros.eval.record import Record
from specprune_ros.eval.report import LEGEND, remarks, table, write_html
from specprune_ros.eval.settings import (
    TUNING_SEEDS,
    EvalSettings,
    check_seeds,
    in_tuning_range,
    simulator_versions,
)
from specprune_ros.eval.summary import compare, summarize_all
from specprune_ros.eval.worlds import Perturbation
from specprune_ros.sim import make_simulator, suite_names
from specprune_ros.sim.base import numbered_episode
from specprune_ros.sim.libero import SUITES as LIBERO_SUITES
from specprune_ros.vla.openvla_oft.files import read_checkpoint_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", choices=suite_names(), default="tabletop",
                        help="suite of the simulator")
    parser.add_argument("--methods", default="off,specprune,random", metavar="a,b,c",
                        help="pruning methods by name, random_keep and uniform_keep (controls with "
                        "a ratio of their own), blank and wrong_instruction (dense)")
    parser.add_argument("--episodes", type=int, default=40, metavar="N",
                        help="episodes per method, the tasks in turn")
    parser.add_argument("--seed", type=int, default=0, metavar="S",
                        help="initial state of the first episode; the next ones count up from it")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE",
                        help="results; the episodes go to FILE's name with .episodes.jsonl")
    parser.add_argument("--report", type=Path, metavar="FILE", help="one HTML file, too")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="the pictures as PNG, too")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    group = parser.add_argument_group("conditions")
    group.add_argument("--perturb", action="append", default=[], metavar="NAME=X,...",
                       help="image_noise= (grey levels), joint_noise= (rad), obs_delay_ms=, "
                       "action_delay_steps=; each --perturb is one more condition beside the "
                       "unperturbed one")
    group.add_argument("--match-flops", metavar="R,R,...",
                       help="also at equal decoder FLOPs, as shares of dense: 0.75,0.6,0.5,0.4")
    group.add_argument("--calibration-episodes", type=int, default=16, metavar="N",
                       help="episodes that --match-flops sets a method's knob by, from "
                       f"initial state {TUNING_SEEDS.start} up")
    group.add_argument("--action-distance", action="store_true",
                       help="ask a dense policy, too, at each query (costs that query)")
    group.add_argument("--replan", type=int, metavar="K",
                       help="actions played of each chunk (without it: all)")
    group.add_argument("--max-steps", type=int, metavar="N",
                       help="control periods per episode (without it: the suite's)")
    group = parser.add_argument_group("where")
    group.add_argument("--engine", choices=("local", "ray"), default="local",
                       help="this machine, or a Ray cluster")
    group.add_argument("--ray-address", metavar="ADDRESS",
                       help="of a running cluster (without it: one is started here)")
    group.add_argument("--workers", type=int, metavar="N",
                       help="episodes at once (without it: 1; ray: as many as the cluster has "
                       "cores). More than one share the cores, which shows in the latencies")
    group.add_argument("--threads", type=int, default=1, metavar="N",
                       help="threads of the numerics per episode")
    add_libero_argument(group)
    add_checkpoint_arguments(parser)


@dataclass(frozen=True)
class Plan:
    """What the arguments ask for. tasks, trials: of the suite. queries: most per episode."""

    settings: EvalSettings
    methods: list[str]
    perturbations: list[Perturbation]
    targets: list[float]
    tasks: int
    trials: int | None
    queries: int

    @classmethod
    def of(cls, args: argparse.Namespace, through_ros: bool = False) -> Plan:
        """Raises ConfigurationError or CheckpointError for what cannot be run."""
        use_libero_python(args)
        methods, targets = parse_methods(args.methods), []
        check_seeds(args.seed, args.episodes)
        if args.match_flops and args.suite in LIBERO_SUITES:
            raise ConfigurationError(
                f"--match-flops tunes on initial states of its own, and those of {args.suite} are "
                "all for results: leave it out"
            )
        if args.match_flops:
            targets = parse_targets(args.match_flops)
            check_seeds(TUNING_SEEDS.start, args.calibration_episodes, "calibration")
            if in_tuning_range(args.seed, args.episodes):
                raise ConfigurationError(
                    f"--match-flops tunes on initial states {TUNING_SEEDS.start} and up, of which "
                    "some are to be evaluated: choose a --seed below"
                )
            methods = list(dict.fromkeys([DENSE, *methods]))
        arms = with_references([Arm(method) for method in methods])
        perturbations = list(dict.fromkeys(map(Perturbation.parse, args.perturb)))
        settings = EvalSettings.of(
            args.suite, args.seed, checkpoint_path(args), device=args.device, dtype=args.dtype,
            unnorm_key=args.unnorm_key, chunk_length=args.chunk_length, replan=args.replan,
            max_steps=args.max_steps, action_distance=args.action_distance, threads=args.threads,
            through_ros=through_ros,
        )
        simulator = make_simulator(args.suite)
        try:
            for perturbation in perturbations:
                perturbation.delay_steps(simulator.control_period)
            steps, tasks = args.max_steps or simulator.max_steps, len(simulator.tasks)
            trials = simulator.trials
            if trials is not None:
                for number in (args.seed, args.seed + args.episodes - 1):
                    numbered_episode(number, tasks, trials, args.suite)
            settings = replace(settings, simulator=simulator_versions(simulator),
                               unnorm_key=_unnorm_key(args))
        finally:
            simulator.close()
        queries = math.ceil(steps / (args.replan or args.chunk_length))
        perturbations = [p for p in perturbations if p != Perturbation()]
        return cls(
            settings, [a.method for a in arms], perturbations, targets, tasks, trials, queries
        )


def _unnorm_key(args: argparse.Namespace) -> str | None:
    """The key asked for; without one that of the suite, where the checkpoint has several."""
    statistics = read_checkpoint_files(checkpoint_path(args)).statistics
    own = {args.suite, f"{args.suite}_no_noops"} & set(statistics)
    return args.unnorm_key or (args.suite if own and len(statistics) > 1 else None)


def run(
    args: argparse.Namespace, through_ros: Callable[[EvalSettings], Engine] | None = None
) -> int:
    """through_ros: makes the engine that plays the episodes through nodes; None: no nodes."""
    plan = Plan.of(args, through_ros is not None)
    card = read_checkpoint_files(plan.settings.checkpoint).card
    log_path = args.json.with_name(args.json.stem + ".episodes.jsonl")
    with EpisodeLog(log_path, plan.settings, args.resume) as log:
        engine = (
            make_engine(args.engine, plan.settings, args.workers, args.ray_address)
            if through_ros is None else through_ros(plan.settings)
        )
        try:
            evaluation = Evaluation(
                plan.settings, engine, log, plan.tasks, plan.queries, plan.trials
            )
            document = _document(args, plan, card) | _results(args, plan, evaluation)
        finally:
            engine.close()
    written = [write_json(args.json, document), log_path, *_reports(args, document)]
    _show(document)
    say_written(written)
    return 0


def _document(args: argparse.Namespace, plan: Plan, card: dict) -> dict[str, Any]:
    """What was run, before any result."""
    trained = bool(card.get("trained", True))
    settings = plan.settings
    origin = provenance(args, "eval")
    origin["machine"]["threads"]["torch"] = args.threads
    if settings.simulator:
        origin["versions"]["simulator"] = settings.simulator
    if settings.through_ros:
        origin["versions"]["rclpy"] = version("rclpy")
    return {
        "suite": args.suite,
        "episodes": args.episodes,
        "seed": args.seed,
        "n": args.episodes,
        "through_ros": settings.through_ros,
        "init_states": {
            "first": args.seed, "last": args.seed + args.episodes - 1,
            "kind": _kind_of_states(args, plan),
        },
        **origin,
        "settings_hash": settings.hash,
        "code_hash": settings.code_hash,
        "checkpoint": {
            "name": str(card.get("name") or Path(settings.checkpoint).name),
            "path": settings.checkpoint,
            "hash": settings.checkpoint_hash,
            "trained": trained,
            "note": "" if trained else f"untrained: {UNTRAINED}",
            "device": args.device,
            "dtype": args.dtype,
        },
    }


def _kind_of_states(args: argparse.Namespace, plan: Plan) -> str:
    if plan.trials is not None:
        return f"{plan.trials} of each of {plan.tasks} tasks, as published"
    tuning = in_tuning_range(args.seed, args.episodes)
    return "for tuning, not for results" if tuning else "held out"


def _results(args: argparse.Namespace, plan: Plan, evaluation: Evaluation) -> dict[str, Any]:
    matches: dict[str, dict[float, Match]] = {}
    if plan.targets:
        with progress_bar("calibrating") as report:
            matches = calibrate(
                evaluation, plan.methods, plan.targets, args.calibration_episodes, report
            )
    arms = [
        Arm(method, None, perturbation)
        for perturbation in (Perturbation(), *plan.perturbations) for method in plan.methods
    ]
    budgets = budget_arms(matches, plan.methods)
    with progress_bar("evaluating") as report:
        found = evaluation.run([*arms, *budgets.values()], args.seed, args.episodes, report)

    def of(perturbation: Perturbation) -> dict[str, Sequence[Record]]:
        return {m: found[Arm(m, None, perturbation)] for m in plan.methods}

    own = of(Perturbation())
    results = _condition(own)
    results["perturbed"] = [
        {"label": p.label, "perturbation": vars(p), **_condition(of(p))}
        for p in plan.perturbations
    ]
    if plan.targets:
        comparable = {name: records for name, records in own.items() if name not in VIEWS}
        results["curve"] = curve(matches, budgets, found, comparable, args.calibration_episodes)
    return results


def _condition(found: dict[str, Sequence[Record]]) -> dict[str, Any]:
    return {
        "methods": summarize_all(found),
        "paired": compare(found, DENSE),
        "paired_default": compare(found, DEFAULT),
    }


def _reports(args: argparse.Namespace, document: dict[str, Any]) -> list[Path]:
    if not (args.report or args.pictures):
        return []
    with tempfile.TemporaryDirectory() as scratch:
        pictures = draw(document, args.pictures or Path(scratch))
        written = [write_html(args.report, document, pictures)] if args.report else []
    return [*written, *(pictures if args.pictures else [])]


def _show(document: dict[str, Any]) -> None:
    console = Console()
    checkpoint = document["checkpoint"]
    title = f"{document['suite']}, {checkpoint['name']}"
    console.print(table(title, document["methods"], document["paired"]))
    for condition in document["perturbed"]:
        console.print(table(condition["label"], condition["methods"], condition["paired"]))
    console.print(LEGEND, highlight=False)
    if document["suite"] in paper.COLUMNS:
        console.print(paper.paper_table([document]))
        console.print(paper.LEGEND, highlight=False)
    for text in remarks(document["methods"]):
        console.print(text, markup=False)
    if checkpoint["note"]:
        console.print(checkpoint["note"], highlight=False)
