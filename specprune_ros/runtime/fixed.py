"""Queries as programs of fixed shapes, called directly or replayed as CUDA graphs."""
from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from itertools import product
from typing import Mapping, Sequence

import numpy as np
import torch

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import DensePruner, Pruner, QueryContext, SessionResult
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.given import GivenRows
from specprune_ros.pruning.lengths import (
    FixedShape,
    bucket_ladder,
    fewest_bucket,
    fixed_lengths,
)
from specprune_ros.pruning.specprune import (
    QueryHistory,
    SpecPrune,
    is_dense_query,
    usable_history,
)
from specprune_ros.runtime.execution import Execution, Query
from specprune_ros.runtime.filling import fill
from specprune_ros.runtime.graph import Captured, Direct, ReadBack
from specprune_ros.runtime.packing import unpack
from specprune_ros.runtime.program import FixedProgram, ProgramKey, ProgramOutput, structure
from specprune_ros.runtime.timing import StageClock
from specprune_ros.runtime.vision import VisionPrograms
from specprune_ros.tokens import TokenLayout
from specprune_ros.types import CameraTokens, Mode
from specprune_ros.vla.openvla_oft.model import OpenVLAOFT

_log = logging.getLogger(__name__)
_PROGRAMS = 32  # kept at most; the least recently used one goes


@dataclass(frozen=True)
class FixedSettings:
    """tile: rows that totals after a drop are multiples of, as the device's matrix tiles are.
    prompt_tile: prompts are padded until the rows before are a multiple of so many, so that another
    instruction finds its program there; 1 pads nothing. bucket: rows after the static stage, in
    place of those that follow from the budgets.
    """

    tile: int = 64
    prompt_tile: int = 32
    bucket: int | None = None

    def __post_init__(self) -> None:
        for name in ("tile", "prompt_tile", "bucket"):
            value = getattr(self, name)
            if not isinstance(value, int) and not (name == "bucket" and value is None):
                raise ConfigurationError(f"{name} is {value!r}, expected a whole number")
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} is {value}: it must be >= 1")


DEFAULT = FixedSettings()


@dataclass(frozen=True)
class _Plan:
    """key: which program. config: the variant in force, or None. history: what counts of it."""

    key: ProgramKey
    config: SpecPruneConfig | None
    history: QueryHistory | None
    dense: bool


@dataclass
class _Ready:
    """A program that can be run at once."""

    program: FixedProgram
    runner: Captured[ProgramOutput] | Direct[ProgramOutput]


def knows(pruner: Pruner) -> bool:
    """Whether there are programs for a method."""
    return isinstance(pruner, (DensePruner, SpecPrune, GivenRows))


class FixedExecutor:
    """Programs are made when first needed, or before by :meth:`prepare`, and kept.

    graph: capture them (CUDA only). Raises ConfigurationError for a graph without CUDA.
    """

    def __init__(
        self, model: OpenVLAOFT, graph: bool, settings: FixedSettings = DEFAULT
    ) -> None:
        self.name = "graph" if graph else "static"
        self.settings = settings
        self.bucket: int | None = None  # chosen by measurement; see ``runtime.latency``
        self._model, self._graph = model, graph
        if graph and model.device.type != "cuda":
            raise ConfigurationError(
                f"runtime 'graph' needs a CUDA device, the model is on '{model.device}': use "
                "runtime 'static', 'eager' or 'auto'"
            )
        self._pool = torch.cuda.graph_pool_handle() if graph else None
        self._programs: OrderedDict[ProgramKey, _Ready] = OrderedDict()
        self._vision = VisionPrograms(model, graph, self._pool)
        self._read_back = ReadBack()

    def check(self, pruner: Pruner) -> None:
        if not knows(pruner):
            raise ConfigurationError(
                f"runtime '{self.name}' knows 'off' and the variants of SpecPrune, not "
                f"'{pruner.name}': use runtime 'eager', or 'auto'"
            )

    def clock(self) -> StageClock:
        # A graph is one stage; waiting between its copies would only delay them.
        return StageClock(self._model.device, wait=not self._graph)

    # Programs -------------------------------------------------------------------------------

    def plan(self, context: QueryContext, pruner: Pruner, features: bool = False) -> _Plan:
        """What a query will run. features: those of the patches are given."""
        self.check(pruner)
        shape = FixedShape.of(context.layout, self.settings.prompt_tile)
        if isinstance(pruner, DensePruner):
            return _Plan(ProgramKey(shape, features=features), None, None, False)
        if isinstance(pruner, GivenRows):
            given = tuple((layer, len(rows)) for layer, rows in pruner.stages.items())
            return _Plan(ProgramKey(shape, features=features, given=given), None, None, False)
        config = pruner.config
        schedule = config.schedule(context.depth)
        history = usable_history(context, schedule)
        dense, lengths = is_dense_query(config, context, history), None
        if not dense:
            lengths = fixed_lengths(
                config, schedule, shape, context.layout.cameras, context.mode,
                self.settings.tile, self._bucket(config, shape),
            )
        key = ProgramKey(shape, structure(config), lengths, features)
        return _Plan(key, config, history, dense)

    def buckets(self, layout: TokenLayout, pruner: SpecPrune) -> list[int]:
        """What ``bucket`` may be for queries of a layout, ascending."""
        shape = FixedShape.of(layout, self.settings.prompt_tile)
        return bucket_ladder(pruner.config, shape, self.settings.tile)

    def _bucket(self, config: SpecPruneConfig, shape: FixedShape) -> int | None:
        if self.bucket is None:
            return self.settings.bucket
        # It was chosen for another prompt, or other settings, than this query may have.
        return max(self.bucket, fewest_bucket(config, shape, self.settings.tile))

    def prepare(
        self, layouts: Sequence[TokenLayout], depth: int, pruner: Pruner, reuse: bool = False
    ) -> None:
        """Make the programs of both modes, with and without history.

        Without padding every length of prompt has programs of its own: then only those of the
        first layout are made.
        """
        for layout in layouts if self.settings.prompt_tile > 1 else layouts[:1]:
            for mode, known in product(Mode, (False, True)):
                history = _any_history(layout, depth, pruner) if known else None
                context = QueryContext(
                    layout, depth, self._model.device, mode, int(known), None, None, None, history
                )
                self._ready(self.plan(context, pruner, reuse).key)
        if reuse:
            for cameras in range(1, len(layouts[0].cameras) + 1):
                self._vision.prepare(cameras)

    def _ready(self, key: ProgramKey) -> tuple[_Ready, bool]:
        """The program of a key, and whether it had to be made."""
        found = self._programs.get(key)
        if found is not None:
            self._programs.move_to_end(key)
            return found, False
        program = FixedProgram(self._model, key)
        if self._graph:
            _log.info("capturing a query of %d rows%s", key.shape.length,
                      f" pruned to {key.lengths.static}" if key.lengths else "")
            runner = Captured(program, self._model.device, self._pool)
        else:
            runner = Direct(program)
        self._programs[key] = ready = _Ready(program, runner)
        if len(self._programs) > _PROGRAMS:
            self._programs.popitem(last=False)
        return ready, True

    # Queries --------------------------------------------------------------------------------

    def run(self, query: Query, pruner: Pruner, clock: StageClock) -> Execution:
        context = query.context
        with clock("selection"):
            plan = self.plan(context, pruner, bool(query.known))
            ready, made = self._ready(plan.key)
        with clock("upload"):
            given = pruner.stages if isinstance(pruner, GivenRows) else {}
            fill(ready.program, query, plan.config, plan.history, given)
        features = ready.program.features
        if features is not None:
            with clock("vision"), torch.inference_mode():
                made |= self._vision(context.frame, query.known, features)
        if self._graph:
            with clock("replay"):
                output = ready.runner.replay()
                history = None if output.history is None else output.history.clone()
                packed = self._read_back(output.packed)
        else:
            with torch.inference_mode():
                output = ready.program(clock)
            history, packed = output.history, self._read_back(output.packed)
        with clock("update"):
            read, *small = unpack(packed, output.fields)
            actions = self._model.actions(read)
            stages = dict(zip(output.stages, (rows.numpy() for rows in small[2:])))
            stages |= {layer - 1: np.asarray(rows) for layer, rows in given.items()}
            entered = _entered(context, stages)
            finished = self._finished(context, plan, entered, history, small)
        return Execution(actions, entered, tuple(map(len, entered)), finished, made, features)

    # Results --------------------------------------------------------------------------------

    def _finished(
        self,
        context: QueryContext,
        plan: _Plan,
        entered: tuple[np.ndarray, ...],
        history: torch.Tensor | None,
        small: list[torch.Tensor],
    ) -> SessionResult:
        layout, config = context.layout, plan.config
        patches = layout.patches_per_camera
        if config is None:
            kept = _per_camera(entered[-1], layout)
            cameras = tuple(
                CameraTokens(name, patches, 0, 0, 0, n) for name, n in zip(layout.cameras, kept)
            )
            return SessionResult(cameras)
        schedule = config.schedule(context.depth)
        sizes, confidence = small[0].tolist(), small[1]
        kept = [_per_camera(rows, layout) for rows in entered]
        static = kept[min(max(schedule.local, default=-1) + 1, context.depth - 1)]
        stages = () if plan.dense else schedule.prune
        cameras = tuple(
            CameraTokens(
                name, patches, sizes[0][c], sizes[1][c], sizes[2][c], static[c],
                tuple(kept[layer + 1][c] for layer in stages), sizes[3][c], sizes[4][c],
            )
            for c, name in enumerate(layout.cameras)
        )
        known = {}
        if config.dynamic.confidence_per == "episode":
            pairs = zip(schedule.update, confidence)
            known = {layer: value for layer, value in pairs if not torch.isnan(value)}
        remembered = QueryHistory(schedule.global_, history, context.mode, known)
        return SessionResult(cameras, remembered, plan.dense, stages)


def _entered(
    context: QueryContext, stages: Mapping[int, np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Positions that entered each layer; stages: layer (-1: before the first) -> what left it."""
    rows = np.arange(context.layout.length)
    entered = []
    for layer in range(context.depth):
        rows = stages.get(layer - 1, rows)
        entered.append(rows)
    return tuple(entered)


def _any_history(layout: TokenLayout, depth: int, pruner: Pruner) -> QueryHistory | None:
    """Stands for what a previous query left."""
    if not isinstance(pruner, SpecPrune):
        return None
    layers = pruner.config.schedule(depth).global_
    shape = (len(layers), len(layout.cameras), layout.patches_per_camera)
    return QueryHistory(layers, torch.empty(shape))


def _per_camera(rows: np.ndarray, layout: TokenLayout) -> list[int]:
    edges = [layout.camera(c).start for c in range(len(layout.cameras))]
    edges.append(layout.visual.stop)
    return np.diff(np.searchsorted(rows, edges)).tolist()
