"""The nodes of the system: one table for ``launch/vla.launch.py``, ``specprune demo`` and
``python -m specprune_ros``, which start the same nodes from the same ``config/vla.yaml``, each in
a process of its own.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .errors import ConfigurationError, SpecpruneError
from .processes import ProcessGroup
from .types import DTYPES


@dataclass(frozen=True)
class NodeSpec:
    """A node: its name (also its section in the parameter file), executable and module.

    simulation: the node belongs to the simulated world and is left out on a real robot.
    robot: the node belongs to a real robot; with the simulated world, which plays the chunks
        itself, it is started only if its output is named.
    """

    name: str
    executable: str
    module: str
    simulation: bool = False
    robot: bool = False


@dataclass(frozen=True)
class Argument:
    """A launch argument that sets one parameter of one node; empty leaves the file's value."""

    name: str
    node: str
    help: str
    choices: tuple[str, ...] = ()


BOOLEAN = ("true", "false")

NODES: tuple[NodeSpec, ...] = (
    NodeSpec("vla_node", "vla_node", "specprune_ros.ros.vla_node"),
    NodeSpec("sim_bridge_node", "sim_bridge_node", "specprune_ros.ros.sim_bridge_node",
             simulation=True),
    NodeSpec("chunk_player_node", "chunk_player_node", "specprune_ros.ros.chunk_player_node",
             robot=True),
)

#: Arguments of the launch file and of ``python -m specprune_ros`` that set a node parameter of the
#: same name. A value is a string, or a bool where the choices are those of BOOLEAN.
ARGUMENTS: tuple[Argument, ...] = (
    Argument("checkpoint", "vla_node",
             "directory of the policy, or the name of one that is installed with the package"),
    Argument("device", "vla_node", "torch device: cpu, cuda, cuda:1, ..."),
    Argument("dtype", "vla_node", "type of the weights", DTYPES),
    Argument("pruning", "vla_node",
             "pruning preset (specprune, paper_v1, paper_icml, release, off) or method; off keeps "
             "every token"),
    Argument("autostart", "vla_node", "configure and activate at start, without a manager",
             BOOLEAN),
    Argument("output", "chunk_player_node",
             "what action chunks become: a topic for the arm's controller, or none",
             ("none", "joint_trajectory", "joint_positions", "twist")),
    Argument("suite", "sim_bridge_node", "suite of simulated worlds"),
)

#: What sim_bridge_node publishes and vla_node reads at every control period.
SIM_TOPICS = tuple(f"camera/{name}/image_raw{suffix}" for name in ("primary", "wrist")
                   for suffix in ("", "/compressed")) + ("joint_states",)

PARAMS_FILE = "config/vla.yaml"
FASTDDS_PROFILES = "config/fastdds_shm.xml"
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")

# Domain 101 is the last whose ports lie below Linux's ephemeral ports (32768).
_DOMAINS = range(1, 101)
_NAMESPACE = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*/?")
_PARTICIPANTS = 16  # of a domain that are looked for
_LOCK_PORT = 47100  # loopback TCP port of domain 0 that says "taken" among runs of this package


def node_parameters(values: Mapping[str, str | None]) -> dict[str, dict[str, str | bool]]:
    """Parameters per node from argument values; None and "" leave the parameter file's value."""
    parameters: dict[str, dict[str, str | bool]] = {spec.name: {} for spec in NODES}
    for argument in ARGUMENTS:
        value = values.get(argument.name)
        if value:
            parameters[argument.node][argument.name] = (
                value == "true" if argument.choices == BOOLEAN else value)
    return parameters


def node_command(spec: NodeSpec, params_file: Path | None,
                 parameters: Mapping[str, object] | None = None, namespace: str = "",
                 log_level: str = "", ros_args: Sequence[str] = ()) -> list[str]:
    """Command line of a node's process.

    params_file: None leaves every parameter at its default. parameters: values that win over the
    file. ros_args: more arguments of ``--ros-args``; they win over everything.
    """
    command = [sys.executable, "-m", spec.module, "--ros-args"]
    if params_file is not None:
        command += ["--params-file", str(params_file)]
    if namespace:
        command += ["-r", f"__ns:=/{namespace.strip('/')}"]
    if log_level:
        command += ["--log-level", log_level]
    for name, value in (parameters or {}).items():
        # As JSON, so that strings are quoted: ROS reads a bare off, on, yes or 1 as something else.
        command += ["-p", f"{name}:={json.dumps(value)}"]
    return command + list(ros_args)


def check_namespace(namespace: str) -> None:
    """ConfigurationError unless it is a valid ROS namespace; "" and "/" stand for none."""
    if namespace not in ("", "/") and not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            f"{namespace!r} is not a ROS namespace; use names of letters, digits and underscores "
            "that do not start with a digit, joined by single slashes, for example left or "
            "lab/left")


def lossless_inputs(namespace: str = "") -> dict[str, object]:
    """Parameters that make vla_node miss no observation of the simulated world.

    Its subscriptions are best effort, as camera drivers need. In lockstep a lost picture would
    leave a hole in the frame ring on a slow machine and make the result depend on it.
    """
    return lossless(SIM_TOPICS, namespace)


def lossless(topics: Iterable[str], namespace: str = "") -> dict[str, object]:
    """Parameters that make a node's subscriptions of these topics (relative names) reliable."""
    prefix = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
    parameters: dict[str, object] = {}
    for topic in topics:
        start = f"qos_overrides.{prefix}{topic}.subscription"
        parameters[f"{start}.reliability"] = "reliable"
        parameters[f"{start}.depth"] = 32
    return parameters


def find_params_file(path: str | Path | None) -> Path:
    """The parameter file: ``path``, or the one that is installed. ConfigurationError if missing."""
    from .share import share_dir

    found = Path(path).expanduser().resolve() if path else share_dir() / PARAMS_FILE
    if not found.is_file():
        raise ConfigurationError(f"no parameter file {found}; copy the installed "
                                 f"{share_dir() / PARAMS_FILE} and change the copy")
    return found


def prepare_environment(environment: MutableMapping[str, str]) -> socket.socket | None:
    """Fill in the DDS settings that the user left open; a domain of its own among them.

    Returns a socket that reserves the domain among runs of this package as long as it is open
    (None where the user set ROS_DOMAIN_ID). Discovery stays on this machine unless set otherwise.
    """
    from .share import share_dir

    environment.setdefault(*localhost_setting(environment))
    environment.setdefault(fastdds_variable(), str(share_dir() / FASTDDS_PROFILES))
    environment.setdefault("PYTHONUNBUFFERED", "1")
    if environment.get("ROS_DOMAIN_ID"):
        return None
    domain, lock = reserve_domain()
    environment["ROS_DOMAIN_ID"] = str(domain)
    return lock


def localhost_setting(environment: Mapping[str, str]) -> tuple[str, str]:
    """Name and value of the variable that keeps DDS on this machine (docs/security.md)."""
    if environment.get("ROS_DISTRO") == "humble":
        return "ROS_LOCALHOST_ONLY", "1"
    return "ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"


def fastdds_variable() -> str:
    """Name of the variable that Fast DDS takes its profiles from; Kilted's warns about the old."""
    try:
        old = int(version("rclpy").split(".")[0]) < 9  # Humble 3, Jazzy 7, Kilted 9
    except PackageNotFoundError:
        old = False
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"


def reserve_domain() -> tuple[int, socket.socket]:
    """A ROS domain that nothing on this machine uses, and the socket that reserves it."""
    start = os.getpid()
    for offset in range(len(_DOMAINS)):
        domain = _DOMAINS[(start + offset) % len(_DOMAINS)]
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            lock.bind(("127.0.0.1", _LOCK_PORT + domain))
        except OSError:
            lock.close()
            continue
        if _domain_is_silent(domain):
            return domain, lock
        lock.close()
    raise ConfigurationError("no free ROS domain on this machine; set ROS_DOMAIN_ID")


def _domain_is_silent(domain: int) -> bool:
    """Whether none of the domain's first participants is there.

    Not the very first one alone: what a killed run has left behind may be any of them.
    """
    base = 7400 + 250 * domain  # RTPS 9.6.1: PB + DG * domain; 10 + 2 n, 11 + 2 n of participant n
    for port in range(base + 10, base + 10 + 2 * _PARTICIPANTS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True


def split_ros_args(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at ``--ros-args``: (own arguments, ROS arguments)."""
    argv = list(argv)
    if "--ros-args" not in argv:
        return argv, []
    at = argv.index("--ros-args")
    rest = argv[at + 1:]
    end = rest.index("--") if "--" in rest else len(rest)
    return argv[:at] + rest[end + 1:], [word for word in rest[:end] if word != "--ros-args"]


def build_parser() -> argparse.ArgumentParser:
    """Parser of ``python -m specprune_ros``, from the tables above."""
    parser = argparse.ArgumentParser(
        prog="python -m specprune_ros",
        description="Start the nodes, each in a process, and keep them up until Ctrl-C. What "
                    "follows --ros-args goes to every node.")
    parser.add_argument("--no-sim", dest="sim", action="store_false",
                        help="leave out the simulated world (a real robot publishes the topics)")
    parser.add_argument("--params-file", metavar="FILE",
                        help="parameter file (default: the installed config/vla.yaml)")
    parser.add_argument("--namespace", default="", help="namespace of the nodes and their topics")
    parser.add_argument("--use-sim-time", choices=BOOLEAN,
                        help="take time from /clock (default: true with the simulated world)")
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info", help="of every node")
    for argument in ARGUMENTS:
        parser.add_argument(f"--{argument.name}", choices=argument.choices or None,
                            help=f"{argument.help} (default: the parameter file's)")
    return parser


def launch_nodes(values: Mapping[str, str | None], *, sim: bool = True,
                 use_sim_time: bool | None = None, namespace: str = "",
                 ) -> list[tuple[NodeSpec, dict[str, object]]]:
    """The nodes to start, each with the parameters that win over the parameter file.

    values: of ARGUMENTS, by name. sim: with the simulated world; a suite that is named decides
    vla_node's base_frame. use_sim_time: None follows sim. ConfigurationError for a namespace that
    ROS would refuse.
    """
    from .sim import base_frame

    check_namespace(namespace)
    use_sim_time = sim if use_sim_time is None else use_sim_time
    by_node = node_parameters(values)
    if sim and values.get("suite"):
        by_node["vla_node"]["base_frame"] = base_frame(values["suite"])
    result = []
    for spec in NODES:
        if spec.simulation and not sim:
            continue
        if spec.robot and sim and values.get("output") in (None, "", "none"):
            continue
        parameters: dict[str, object] = {"use_sim_time": use_sim_time}
        if sim and spec.name == "vla_node":
            parameters.update(lossless_inputs(namespace))
        result.append((spec, {**parameters, **by_node[spec.name]}))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m specprune_ros``. Returns 0 after Ctrl-C or when the nodes ended well."""
    own, ros_args = split_ros_args(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(own)
    stop_on_sigterm()
    try:
        params_file = find_params_file(args.params_file)
        lock = prepare_environment(os.environ)
        sim_time = args.use_sim_time == "true" if args.use_sim_time else None
        group = ProcessGroup(echo=lambda line: sys.stderr.write(line + "\n"))
        with group:
            nodes = launch_nodes(vars(args), sim=args.sim, use_sim_time=sim_time,
                                 namespace=args.namespace)
            group.start({spec.name: node_command(spec, params_file, parameters, args.namespace,
                                                 args.log_level, ros_args)
                         for spec, parameters in nodes})
            sys.stderr.write(f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']} "
                             f"({'reserved for this run' if lock else 'as set'}); Ctrl-C stops\n")
            return _watch(group)
    except KeyboardInterrupt:
        return 0
    except SpecpruneError as error:
        sys.stderr.write(f"specprune_ros: {error}\n")
        return 1


def _watch(group: ProcessGroup) -> int:
    """Wait until a node ends; an exit status other than 0 is an error that names the node."""
    while not (ended := group.ended()):
        time.sleep(0.2)
    failed = next((child for child in ended if child.popen.returncode != 0), None)
    if failed:
        raise group.death(failed)
    sys.stderr.write(f"{ended[0].name} has ended; stopping the other nodes\n")
    return 0


def stop_on_sigterm() -> None:
    """Have SIGTERM and SIGHUP stop this process as Ctrl-C does, so that children are stopped."""
    def interrupt(_signum: int, _frame: object) -> None:
        raise KeyboardInterrupt

    # A shell starts background jobs with SIGINT ignored; stopping by signal must work there too.
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
