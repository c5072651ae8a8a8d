"""The arms of the comparison, all over the same weights."""
from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """pruning: name of the method. fast: in the package's own runtime, else matrix by matrix.
    weights: of the decoder, as for ``load_policy``.
    """

    name: str
    text: str
    pruning: str
    fast: bool
    weights: str = "full"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("a", "dense, eager, as the reference code runs it", DENSE, False),
        Arm("a2", "the same without what it computes in vain", DENSE, False),
        Arm("b", "dense in this runtime", DENSE, True),
        Arm("c", "pruned, eager", PRUNED, False),
        Arm("d", "pruned in this runtime", PRUNED, True),
        Arm("b8", "as b, with int8 weights", DENSE, True, "int8"),
        Arm("d8", "as d, with int8 weights", PRUNED, True, "int8"),
    )
}
DEFAULT = "a,a2,b,c,d"


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
    loaded: Mapping[str, LoadedCheckpoint], arms: list[Arm], runtimes: Mapping[str, Runtime],
    make: Callable[[LoadedCheckpoint, object, str], Policy],
) -> dict[str, Policy]:
    """A policy per arm. loaded, runtimes: by kind of weights. make: from a checkpoint, a runtime
    and the name of a method.
    """
    found = {}
    for arm in arms:
        weights = loaded[arm.weights]
        if arm.fast:
            chosen: object = runtimes[arm.weights]
        elif arm.name == "a":
            chosen = OneExecutor(ReferenceExecutor(weights))
        else:
            chosen = OneExecutor(EagerExecutor(weights.model, fused=False))
        found[arm.name] = make(weights, chosen, arm.pruning)
    return found
