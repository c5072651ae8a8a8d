"""The arms of the comparison, all over the same weights."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from specprune_ros.bench.reference import ReferenceExecutor
from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import Policy
from specprune_ros.pruning.base import Pruner
from specprune_ros.runtime.choice import Runtime
from specprune_ros.runtime.execution import EagerExecutor, Executor
from specprune_ros.vla.openvla_oft.model import LoadedCheckpoint

DENSE, PRUNED = "off", "specprune"


class OneExecutor:
    """A runtime that always gives the same executor."""

    choice_due = False

    def __init__(self, executor: Executor) -> None:
        self.kind, self._executor = executor.name, executor

    def executor(self, pruner: Pruner) -> Executor:
        self._executor.check(pruner)
        return self._executor


@dataclass(frozen=True)
class Arm:
    """pruning: name of the method. fast: in the package's own runtime, else matrix by matrix."""

    name: str
    text: str
    pruning: str
    fast: bool


ARMS = {
    arm.name: arm
    for arm in (
        Arm("a", "dense, eager, as the reference code runs it", DENSE, False),
        Arm("a2", "the same without what it computes in vain", DENSE, False),
        Arm("b", "dense in this runtime", DENSE, True),
        Arm("c", "pruned, eager", PRUNED, False),
        Arm("d", "pruned in this runtime", PRUNED, True),
    )
}


def choose(names: str) -> list[Arm]:
    """Arms of a comma-separated list. Raises ConfigurationError."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in ARMS]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise ConfigurationError(
            f"--arms {names}: give some of {', '.join(ARMS)}, each once"
        )
    return [ARMS[name] for name in wanted]


def policies(
    loaded: LoadedCheckpoint, arms: list[Arm], runtime: Runtime,
    make: Callable[[object, str], Policy],
) -> dict[str, Policy]:
    """A policy per arm. make: from a runtime and the name of a method."""
    found = {}
    for arm in arms:
        if arm.fast:
            chosen: object = runtime
        elif arm.name == "a":
            chosen = OneExecutor(ReferenceExecutor(loaded))
        else:
            chosen = OneExecutor(EagerExecutor(loaded.model, fused=False))
        found[arm.name] = make(chosen, arm.pruning)
    return found
