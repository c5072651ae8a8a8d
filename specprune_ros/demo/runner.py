"""Starts the nodes, watches them for a while, writes down what happened."""
from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from ..bringup import (
    find_params_file,
    launch_nodes,
    node_command,
    prepare_environment,
    stop_on_sigterm,
)
from ..errors import SpecpruneError
from ..processes import ProcessGroup
from ..share import checkpoint_dir
from .outputs import check_outputs, write_json
from .report import Progress, progress_text, summary_table
from .results import Tally, as_json, checkpoint_facts
from .video import Caption, VideoFile

TOTAL_S = 110.0  # start and run together: with the shutdown two minutes at most
START_TIMEOUT_S = 50.0  # granted however long the run is
STALL_S = 20.0  # without a chunk, once there has been one
SPIN_S = 0.1
NODE_PARAMETERS = ["checkpoint", "pruning"]  # read back from vla_node: what really is in force


class DemoError(SpecpruneError):
    """The demo could not run to its end; the message says what stopped it."""


def run_demo(args: argparse.Namespace) -> int:
    """``specprune demo``; ``args`` as made by :func:`specprune_ros.demo.add_arguments`."""
    stop_on_sigterm()
    console = Console()
    # Before anything is started, so that a wrong path costs no time.
    params_file = find_params_file(getattr(args, "params_file", None))
    check_outputs(args.json, args.video)
    log_dir = Path(tempfile.mkdtemp(prefix="specprune_demo_"))
    os.environ.setdefault("ROS_LOG_DIR", str(log_dir))
    lock = prepare_environment(os.environ)
    try:
        with ProcessGroup(log_dir, _echo(console) if args.verbose else None) as group:
            group.start(_commands(args, params_file))
            result, run = _watch(args, group, console)
    except SpecpruneError as error:
        raise DemoError(f"{error}\nThe logs of the nodes are in {log_dir}") from error
    except KeyboardInterrupt:
        shutil.rmtree(log_dir, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            lock.close()
    shutil.rmtree(log_dir, ignore_errors=True)
    # The table comes first: whatever cannot be written, the figures of the run are not lost.
    console.print(summary_table(result, args.json, run.film()))
    console.file.flush()
    if args.json is not None:
        write_json(args.json, result)
    if run.video_error is not None:
        raise run.video_error
    return 0


def _commands(args: argparse.Namespace, params_file: Path) -> dict[str, list[str]]:
    values = {name: getattr(args, name, None)
              for name in ("checkpoint", "pruning", "device", "suite")}
    world: dict[str, object] = {"view": args.view, "episodes": 0}
    if hasattr(args, "seed"):
        world["seed"] = args.seed
    return {spec.name: node_command(
        spec, params_file, {**parameters, **(world if spec.simulation else {})},
        ros_args=args.ros_args) for spec, parameters in launch_nodes(values)}


def _watch(args: argparse.Namespace, group: ProcessGroup,
           console: Console) -> tuple[dict[str, object], _Run]:
    """Listen until the time is up; the results as a dict for JSON, and the run with its film."""
    # Imported here: only now is the environment of DDS complete.
    from ..ros.sim_monitor import SimMonitor

    run = _Run(args.video)
    try:
        with SimMonitor(run.on_chunk, run.on_stats, run.on_sim,
                        run.on_pictures if args.video else None) as monitor:
            run.monitor = monitor
            with Progress(console, live=not args.verbose) as progress:
                _wait_for_first_chunk(monitor, group, progress,
                                      max(START_TIMEOUT_S, TOTAL_S - args.seconds))
                _let_run(run, group, progress, args.seconds)
            seconds = time.monotonic() - monitor.first_chunk
            in_force = monitor.parameters("vla_node", NODE_PARAMETERS)
            if not in_force:
                raise DemoError("vla_node does not answer a question about its parameters")
            suite = monitor.sim.suite
    finally:
        run.close()
    name, trained = checkpoint_facts(checkpoint_dir(in_force["checkpoint"]))
    result = as_json(
        run.tally, seconds=seconds, checkpoint=name, trained=trained,
        pruning=in_force["pruning"], suite=suite,
        processes=[*((child.name, child.pid) for child in group.children),
                   ("specprune demo", os.getpid())])
    return result, run


def _wait_for_first_chunk(monitor, group: ProcessGroup, progress: Progress,
                          patience: float) -> None:
    deadline = time.monotonic() + patience
    while monitor.first_chunk is None:
        if time.monotonic() > deadline:
            status = monitor.status
            why = (f"vla_node says: {status.fault_text}" if status and status.fault_text
                   else "vla_node has published no status" if status is None
                   else "vla_node is running but has sent none")
            raise DemoError(f"no action chunk within {patience:.0f} s of the start; {why}")
        _check(monitor, group)
        monitor.spin(SPIN_S)
        progress.show("starting the nodes")


def _let_run(run: _Run, group: ProcessGroup, progress: Progress, seconds: float) -> None:
    monitor = run.monitor
    end = monitor.first_chunk + seconds
    while (now := time.monotonic()) < end:
        _check(monitor, group)
        if now - monitor.last_chunk > STALL_S:
            raise DemoError(f"no action chunk for {STALL_S:.0f} s; vla_node says: "
                            f"{monitor.status.fault_text or 'nothing'}")
        monitor.spin(min(SPIN_S, end - now))
        progress.show(progress_text(now - monitor.first_chunk, seconds, run.tally, run.caption()))


def _check(monitor, group: ProcessGroup) -> None:
    """Raise for a node that has died, and for a fault that vla_node reports."""
    group.check()
    status = monitor.status
    if status is not None and status.state == status.FAULT:
        raise DemoError(f"vla_node reports a fault: {status.fault_text}")


class _Run:
    """What the monitor's messages are turned into: counts and film."""

    def __init__(self, video: Path | None) -> None:
        self.tally = Tally()
        self.monitor = None
        self.video_error: SpecpruneError | None = None  # found when the video was finished
        self._video_path = video
        self._video: VideoFile | None = None

    def on_chunk(self, message) -> None:
        self.tally.add_chunk(message.inference_time)

    def on_stats(self, message) -> None:
        self.tally.add_stats(message.tokens_in, message.kept_static, message.kept_after_dynamic,
                             message.mode)

    def on_sim(self, message) -> None:
        self.tally.episodes, self.tally.successes = message.episodes_done, message.successes
        if message.done and self._video is not None:
            self._video.end_episode(self.caption())

    def on_pictures(self, primary, wrist) -> None:
        if self.monitor.chunk is None:  # the film starts with the first action
            return
        if self._video is None:
            # One frame per control period: the film runs at the speed of the simulated world.
            self._video = VideoFile(self._video_path, 1.0 / self.monitor.chunk.dt)
        self._video.add(primary, wrist, self.caption())

    def caption(self) -> Caption:
        """The state as of the newest messages."""
        sim, tally = self.monitor.sim, self.tally
        return Caption(
            instruction=sim.instruction if sim else "", episode=sim.episode if sim else 0,
            step=sim.step if sim else 0, mode=tally.mode,
            kept=tally.kept[-1] if tally.kept else None, dense=tally.dense or None,
            successes=tally.successes, episodes=tally.episodes,
            outcome=sim.success if sim and sim.done else None)

    def film(self) -> str:
        """What became of the video, in words."""
        if self._video_path is None:
            return "none"
        if self._video is None:
            return "none: no pictures came"
        if self.video_error is not None:
            return "not written to the end"
        dropped = self._video.dropped
        return f"{self._video.path}" + (f" ({dropped} frames left out)" if dropped else "")

    def close(self) -> None:
        """Finish the video; what goes wrong is kept in ``video_error`` for after the table."""
        if self._video is not None:
            try:
                self._video.close()
            except SpecpruneError as error:
                self.video_error = error


def _echo(console: Console):
    if console.is_terminal:
        return lambda line: console.print(line, markup=False, highlight=False)
    return lambda line: sys.stderr.write(line + "\n")
