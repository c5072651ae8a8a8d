"""What ``--methods`` may name, and how a method is set: its knob, or the counts it copies."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.worlds import Blank, WrongInstruction
from specprune_ros.pruning.base import DensePruner, Pruner
from specprune_ros.pruning.config import Budget, CameraBudgets, SpecPruneConfig
from specprune_ros.pruning.methods.common import Counts, Method
from specprune_ros.pruning.methods.random import Random, RandomConfig
from specprune_ros.pruning.methods.uniform import Uniform, UniformConfig
from specprune_ros.pruning.registry import known_methods, make_pruner
from specprune_ros.pruning.specprune import SpecPrune
from specprune_ros.sim.view import SimulatorView

DENSE = "off"
DEFAULT = "specprune"  # the method whose counts the controls copy

#: Controls that keep as many patches as DEFAULT did on the same episode.
COPIES = ("random", "uniform")
#: The same controls with a keep ratio of their own, the same in every query and layer.
BY_RATIO = {"random_keep": "random", "uniform_keep": "uniform"}
#: The dense policy in a world that hides something from it.
VIEWS: dict[str, type[SimulatorView]] = {"blank": Blank, "wrong_instruction": WrongInstruction}


@dataclass(frozen=True)
class Knob:
    """The one number that sets a method's cost, from ``low`` to ``high``, cost rising with it."""

    name: str
    low: float
    high: float


_KEEP = Knob("keep", 0.01, 1.0)
# Factor on the budgets of all sets. At 8 every set of the default holds 60 % or more of a camera.
_SCALE = Knob("budget_scale", 0.02, 8.0)


def method_names() -> tuple[str, ...]:
    """Every name that ``--methods`` takes."""
    return (*known_methods(), *BY_RATIO, *VIEWS)


def parse_methods(text: str) -> list[str]:
    """Names separated by commas, each once. Raises ConfigurationError for an unknown one."""
    names = list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    unknown = [name for name in names if name not in method_names()]
    if unknown or not names:
        raise ConfigurationError(
            f"unknown method {', '.join(unknown) or '(none given)'}; known: "
            f"{', '.join(method_names())}"
        )
    return names


def knob_of(method: str) -> Knob | None:
    """The knob of a method, or None where it has none: dense, views, copies, plugins without."""
    if method == DENSE or method in VIEWS or method in COPIES:
        return None
    if method in BY_RATIO:
        return _KEEP
    pruner = make_pruner(method)
    if isinstance(pruner, SpecPrune):
        return _SCALE
    return _KEEP if isinstance(pruner, Method) else None


def make_method(
    method: str, knob: float | None = None, counts: Counts | None = None, seed: int = 0
) -> Pruner:
    """The pruner of a method for one episode.

    knob: its setting, None for the method's own. counts: for the copies; without them they keep
    half. seed: of the draws of the random controls. Raises ConfigurationError for a knob that the
    method does not have, MethodUnavailable if it cannot run.
    """
    if method == DENSE or method in VIEWS:
        return DensePruner()
    name = BY_RATIO.get(method, method)
    controls = {
        "random": partial(RandomConfig, name=method, seed=seed),
        "uniform": partial(UniformConfig, name=method),
    }
    if name in controls:
        # The knob of a copy is that of the run it copies.
        ratio = {} if knob is None or method in COPIES else {"keep": knob}
        config = controls[name](counts=counts, **ratio)
        return (Random if name == "random" else Uniform)(config)
    pruner = make_pruner(method)
    if knob is None:
        return pruner
    if isinstance(pruner, SpecPrune):
        return SpecPrune(scaled_budgets(pruner.config, knob))
    if isinstance(pruner, Method):
        return pruner.with_keep(knob)
    raise ConfigurationError(f"method '{method}' has no knob to set")


def scaled_budgets(config: SpecPruneConfig, factor: float) -> SpecPruneConfig:
    """The config with every budget, and the floor of the dynamic stage, times ``factor``."""

    def scale(count: int) -> int:
        return int(count * factor + 0.5)

    def budget(b: Budget) -> Budget:
        return Budget(scale(b.global_), scale(b.dynamic), max(1, scale(b.local)))

    b = config.budgets
    budgets = CameraBudgets(*map(budget, (b.scene_coarse, b.scene_fine, b.wrist_coarse,
                                          b.wrist_fine)))
    floor = scale(config.dynamic.floor)
    return replace(config, budgets=budgets, dynamic=replace(config.dynamic, floor=floor))


def copied_counts(
    kept: Sequence[Sequence[Sequence[int]]], dense: Sequence[bool], queries: int
) -> Counts:
    """Counts [query][layer][camera] for an episode of up to so many queries.

    kept, dense: what the copied episode kept, and which of its queries kept everything. A longer
    episode repeats the counts of the last query that did not (of the last one, if all did).
    """
    pruned = [number for number, whole in enumerate(dense) if not whole]
    last = kept[pruned[-1] if pruned else -1]
    every = [*kept, *[last] * (queries - len(kept))]
    return Counts(tuple(tuple(tuple(layer) for layer in query) for query in every))
