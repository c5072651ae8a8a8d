"""Which execution a policy uses."""
from __future__ import annotations

from collections.abc import Callable

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import Pruner
from specprune_ros.runtime.execution import EagerExecutor, Executor
from specprune_ros.runtime.fixed import DEFAULT, FixedExecutor, FixedSettings, knows
from specprune_ros.runtime.latency import BucketChoice, check_target
from specprune_ros.vla.openvla_oft.model import OpenVLAOFT

RUNTIMES = ("auto", "eager", "static", "graph")


class Runtime:
    """The executions of one model, made when first used; policies over the same weights share it.

    kind: ``eager``, ``static``, ``graph``; or ``auto``: graphs on CUDA for the methods that they
    know, eager otherwise. On the CPU eager keeps the exact sets and is no slower.

    latency_target_ms: have the numbers of rows chosen so that a query takes no longer; 0 leaves
    them to the budgets. ``auto`` then is ``static`` on the CPU. choice: what a policy chose, or
    None; choice_due: that it is still to be made.
    """

    def __init__(
        self, model: OpenVLAOFT, kind: str = "auto", settings: FixedSettings = DEFAULT,
        latency_target_ms: float = 0.0,
    ) -> None:
        """Raises ConfigurationError for an unknown kind, or one that the device cannot run."""
        if kind not in RUNTIMES:
            raise ConfigurationError(f"runtime '{kind}' is not one of {', '.join(RUNTIMES)}")
        self.kind, self._model, self._settings = kind, model, settings
        check_target(latency_target_ms)
        if latency_target_ms and kind == "eager":
            raise ConfigurationError(
                "latency_target_ms chooses a fixed number of rows, which runtime 'eager' does not "
                "have: use runtime 'auto', 'static' or 'graph'"
            )
        if latency_target_ms and settings.bucket is not None:
            raise ConfigurationError(
                f"latency_target_ms chooses the bucket, but FixedSettings.bucket is "
                f"{settings.bucket}: give one of the two"
            )
        self.latency_target_ms = latency_target_ms
        self.choice: BucketChoice | None = None
        self.choice_due = latency_target_ms > 0
        self._eager = EagerExecutor(model)
        self._fixed: FixedExecutor | None = None
        if kind in ("static", "graph"):
            self._fixed = FixedExecutor(model, kind == "graph", settings)

    def executor(self, pruner: Pruner) -> Executor:
        """What runs a method. Raises ConfigurationError where the kind asked for cannot."""
        if self.kind == "eager":
            return self._eager
        if self.kind == "auto":
            cuda = self._model.device.type == "cuda"
            if not (cuda or self.latency_target_ms) or not knows(pruner):
                return self._eager
            if self._fixed is None:
                self._fixed = FixedExecutor(self._model, cuda, self._settings)
        self._fixed.check(pruner)
        return self._fixed

    def choose(self, pick: Callable[[float], BucketChoice]) -> None:
        """Have the rows chosen for the latency target; ``pick`` may make queries for that."""
        self.choice_due = False  # its queries must not choose
        try:
            self.choice = pick(self.latency_target_ms)
        except BaseException:
            self.choice_due = True
            raise
