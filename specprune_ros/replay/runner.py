"""Sends a bag through the real vla_node, in a process and a ROS domain of its own."""
from __future__ import annotations

import difflib
import math
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..analysis.bag_file import Bag
from ..analysis.writing import check_output_folder
from ..bringup import NODES, find_params_file, lossless, node_command, prepare_environment
from ..errors import ConfigurationError
from ..processes import ProcessGroup
from ..provenance import checkpoint_hash, git_commit, versions
from ..share import checkpoint_dir
from .plan import STRING, Plan, make_plan
from .recorded import note_of, open_bag, recorded_queries
from .run import digest, paired_records, write_run
from .timeline import Deliver, SetTime, check_complete, choose_clock, timeline

#: Recorded parameters that are not those of a replay: they name things of the recording machine,
#: or have it measured.
_NOT_REPLAYED = ("autostart", "checkpoint", "device", "num_threads", "robot_description_file",
                 "cameras", "image_transport", "instruction", "latency_target_ms")
#: In a replay nothing moves that would have to be stopped until a person has looked at it.
_NO_LATCH: Mapping[str, object] = {"guard.latch_after": 1_000_000, "watchdog.latch_after": 1e6}
START_PATIENCE = 600.0  # s for loading the policy; the node's death is noticed at once
LOG = "vla_node.log"

Parameters = dict[str, object]


@dataclass(frozen=True)
class ReplayOptions:
    """How a bag is replayed.

    checkpoint, pruning, device: of vla_node; None for what the bag says, or the parameter file.
    parameters: ``name:=value`` as ROS writes them; they win over everything. params_file: None
    takes the recorded parameters where there are some. clock: see timeline.choose_clock().
    patience: wall seconds that the node may take over one input. domain_id: None for a ROS domain
    of the replay's own, which nothing else is in.
    """

    checkpoint: str | None = None
    pruning: str | None = None
    device: str | None = None
    params_file: Path | None = None
    parameters: Sequence[str] = ()
    remaps: Mapping[str, str] = field(default_factory=dict)
    instruction: str | None = None
    urdf: Path | None = None
    clock: str = "auto"
    patience: float = 300.0
    domain_id: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a replay gave, as in the run's files. recorded: what the bag's own node had given."""

    summary: Mapping[str, Any]
    queries: Sequence[Mapping[str, Any]]
    recorded: Sequence[Mapping[str, Any]]


def replay_bag(path: Path, out: Path, options: ReplayOptions,
               progress: Callable[[float], None] = lambda _share: None) -> Outcome:
    """Replay a bag and write the run to ``out``.

    progress: called with the share of the messages that are done. The ROS environment variables of
    this process are set for the replay.

    Raises:
        RecordingError: the bag is broken, lacks something, or the node makes no query of it.
        ConfigurationError: options that do not fit.
        ProcessDied: the node ended; its log is in ``out``.
    """
    check_out(out)
    with open_bag(path) as bag:
        note = note_of(bag)
        recorded = note.get("parameters", {}) if options.params_file is None else {}
        own = {text.partition(":=")[0]: text for text in options.parameters}
        check_parameters(own)
        plan = make_plan(bag, options.remaps, _cameras(own, recorded),
                         None if options.params_file else recorded.get("image_transport"))
        options = replace(options, instruction=_instruction(bag, plan, options, recorded))
        check_complete(bag, plan, options.instruction)
        clock = choose_clock(bag, plan, options.clock)
        parameters = node_parameters(plan, options, recorded)
        lock = prepare_domain(os.environ, options.domain_id)
        try:
            with ProcessGroup(out) as group:
                group.start({"vla_node": node_command(
                    NODES[0], find_params_file(options.params_file), parameters,
                    ros_args=[word for text in options.parameters for word in ("-p", text)])})
                result = _play(bag, plan, clock, options, group, progress)
        finally:
            if lock is not None:
                lock.close()
        before = recorded_queries(bag, plan)
    summary = {
        **_provenance(path, note, plan, clock, options, result["parameters"]),
        **{name: result[name] for name in ("sent", "counters", "faults")},
        "digest": digest(result["queries"]),
    }
    write_run(out, summary, result["queries"])
    return Outcome(summary, result["queries"], before)


def check_out(out: Path) -> None:
    """Raise ConfigurationError where a run would be mixed with other files."""
    # A replay that failed leaves its log.
    if out.exists() and not (out.is_dir() and {p.name for p in out.iterdir()} <= {LOG}):
        raise ConfigurationError(f"--out {out} exists and is not an empty folder: name another")
    check_output_folder(out)


def check_parameters(names: Mapping[str, str]) -> None:
    """Raise ConfigurationError for ``--param`` that would be ignored."""
    from ..ros.vla_parameters import VLA_PARAMETERS

    known = [spec.name for spec in VLA_PARAMETERS]
    for name, text in names.items():
        if ":=" not in text:
            raise ConfigurationError(f"--param {text}: write name:=value")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigurationError(f"--param {text}: vla_node has no parameter {name}"
                                     + (f"; did you mean {near[0]}?" if near else ""))


def node_parameters(plan: Plan, options: ReplayOptions,
                    recorded: Mapping[str, object]) -> Parameters:
    """Parameters of the node that win over the parameter file's."""
    from ..ros.method_parameters import GOVERNED
    from ..ros.vla_parameters import VLA_PARAMETERS

    known = {spec.name for spec in VLA_PARAMETERS} - set(_NOT_REPLAYED)
    given = {text.partition(":=")[0] for text in options.parameters}
    if options.pruning or "pruning" in given:
        known -= {"custom_base", *GOVERNED}  # another method has values of its own
    values: Parameters = {name: value for name, value in recorded.items() if name in known}
    checkpoint = options.checkpoint
    if checkpoint is None and "checkpoint" not in given:
        checkpoint = _recorded_checkpoint(recorded)
    values |= {**_NO_LATCH, "use_sim_time": True, "autostart": True,
               "num_threads": 1,  # more of them, and sums are rounded in another order
               "cameras": list(plan.cameras),
               "image_transport": "compressed" if plan.compressed else "raw",
               **lossless(name for topic, name in plan.inputs.items()
                          if plan.kinds[topic] != STRING)}
    asked = {"checkpoint": checkpoint and str(checkpoint_dir(checkpoint)),
             "pruning": options.pruning, "device": options.device,
             "robot_description_file": options.urdf and str(options.urdf.resolve())}
    values |= {name: value for name, value in asked.items() if value}
    # ROS ignores a value that is given twice, where the second has another type.
    return {name: value for name, value in values.items() if name not in given}


def _instruction(bag: Bag, plan: Plan, options: ReplayOptions,
                 recorded: Mapping[str, object]) -> str | None:
    """The task that is asked for; of a bag without a task, the one the node's parameter held."""
    in_bag = any(name == "instruction" and bag.counts[topic]
                 for topic, name in plan.inputs.items())
    if options.instruction is not None or in_bag:
        return options.instruction
    return str(recorded.get("instruction", "")).strip() or None


def _recorded_checkpoint(recorded: Mapping[str, object]) -> str | None:
    """The checkpoint that was recorded with; it may not exist here."""
    if "checkpoint" not in recorded:
        return None
    name = str(recorded["checkpoint"])
    if not checkpoint_dir(name).is_dir():
        raise ConfigurationError(f"the bag was recorded with checkpoint '{name}', which is not "
                                 "here: name one with --checkpoint")
    return name or None


def _cameras(own: Mapping[str, str], recorded: Mapping[str, Any]) -> Sequence[str] | None:
    """The cameras that are wanted; None for those of the bag."""
    import yaml

    if "cameras" not in own:
        return recorded.get("cameras")
    try:
        names = yaml.safe_load(own["cameras"].partition(":=")[2])
    except yaml.YAMLError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"--param {own['cameras']}: write cameras:=[primary, wrist]")
    return names


def prepare_domain(environment: MutableMapping[str, str], domain_id: int | None
                   ) -> socket.socket | None:
    """Set up a domain of the replay's own, on this machine, or the one that was asked for.

    An arm must not take replayed actions for live ones. Returns what keeps the domain reserved.
    """
    if domain_id is not None:
        environment["ROS_DOMAIN_ID"] = str(domain_id)
    else:
        for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY",
                     "ROS_STATIC_PEERS"):
            environment.pop(name, None)
    return prepare_environment(environment)


def _play(bag: Bag, plan: Plan, clock: str, options: ReplayOptions, group: ProcessGroup,
          progress: Callable[[float], None]) -> dict[str, Any]:
    # Imported here: only now is the environment of DDS complete.
    from ..ros.bag_player import BagPlayer, ReplayFailed

    names = {name: plan.kinds[topic] for topic, name in plan.inputs.items()}
    if options.instruction is not None:
        names["instruction"] = STRING
    total = sum(bag.counts[topic] for topic in plan.inputs) or 1
    with BagPlayer(names, int(os.environ["ROS_DOMAIN_ID"]), group.check,
                   options.patience) as player:
        player.wait_until_active(START_PATIENCE)
        in_force = player.parameters()
        if options.instruction is not None:
            player.instruct(options.instruction)
        for event in timeline(bag, plan, clock, options.instruction):
            if isinstance(event, SetTime):
                player.set_time(event.ns)
            elif isinstance(event, Deliver):
                player.deliver(event.topic, event.raw)
                progress(sum(player.sent.values()) / total)
            else:
                player.reset_episode()
        if not player.chunks:
            status = player.status
            why = status.fault_text if status and status.fault_text else (
                player.faults[-1][1] if player.faults else "it reports no fault")
            raise ReplayFailed(
                f"vla_node made no query of bag '{bag.path}'; it says: {why}. If stamps are the "
                f"trouble, try --clock stamps (this was: {clock}); if the robot description is, "
                "--urdf FILE")
        return {
            "queries": paired_records(player.chunks, player.stats),
            "parameters": in_force,
            "sent": dict(player.sent),
            "counters": player.progress,
            "faults": [{"time": ns, "text": text} for ns, text in player.faults],
        }


def _provenance(path: Path, note: Mapping[str, Any], plan: Plan, clock: str,
                options: ReplayOptions, parameters: Mapping[str, object]) -> dict[str, Any]:
    checkpoint = checkpoint_dir(str(parameters["checkpoint"]))
    return {
        "bag": {"path": str(path), "inputs": dict(plan.inputs), "recorded_with": {
            name: note[name] for name in ("versions", "commit", "checkpoint") if name in note}},
        "clock": clock,
        "instruction": options.instruction,
        "checkpoint": {"path": str(checkpoint), "hash": checkpoint_hash(checkpoint)},
        "pruning": parameters["pruning"],
        "parameters": {name: _finite(value) for name, value in parameters.items()},
        "versions": versions(),
        "commit": git_commit(),
    }


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return list(value) if isinstance(value, (tuple, list)) else value
