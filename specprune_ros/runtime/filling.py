"""A query's numbers, written to the inputs of a program of fixed shapes."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from specprune_ros.pruning.base import QueryContext
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.specprune import QueryHistory, global_shares
from specprune_ros.runtime.execution import Query
from specprune_ros.runtime.program import FixedProgram
from specprune_ros.vla.openvla_oft.model import TextInput


def fill(
    program: FixedProgram,
    query: Query,
    config: SpecPruneConfig | None,
    history: QueryHistory | None,
    given: Mapping[int, Sequence[int]],
) -> None:
    """Write a query to a program, and queue its upload.

    config: the variant in force, None where nothing is selected. history: what counts of it. given:
    layer -> rows that enter it, where they are inputs.
    """
    context, host = query.context, program.packed.host
    layout, shape = context.layout, program.key.shape
    ids, shown = TextInput.arrays(query.prompt, layout, shape.tail)
    _set(host["ids"], ids)
    _set(host["shown"], shown[:, None])
    _set(host["readout"], np.arange(layout.readout.start, layout.readout.stop))
    _set(host["real"], np.arange(shape.length) < layout.length)
    if query.proprio is not None:
        _set(host["proprio"], np.asarray(query.proprio, np.float32))
    program.frame.copy_(context.frame, non_blocking=True)
    if config is not None:
        _fill_selection(program, context, config, history)
    for layer, rows in given.items():
        _set(host[f"rows_{layer}"], np.asarray(rows))
    program.packed.upload()


def _fill_selection(
    program: FixedProgram, context: QueryContext, config: SpecPruneConfig,
    history: QueryHistory | None,
) -> None:
    host, static, cameras = program.packed.host, config.static, context.layout.cameras
    references = [context.step_frame]
    references += [context.query_frame] if static.compare_last_query else []
    for slot, reference in zip(program.references, references):
        if reference is not None:
            slot.copy_(reference, non_blocking=True)
    _set(host["has_reference"], np.array([r is not None for r in references]))
    budgets = [config.budgets.of(name, context.mode) for name in cameras]
    _set(host["dynamic_budgets"], np.array([b.dynamic for b in budgets], np.float32))
    _set(host["local_budgets"], np.array([b.local for b in budgets], np.float32))
    _set(host["tau"], np.array([static.tau(name) for name in cameras]))
    shares = np.zeros(host["global_budgets"].shape, np.float32)
    if history is not None:
        shares[:] = global_shares(config, context, history)
        program.history.copy_(history.scores)
    else:
        program.history.fill_(-torch.inf)
    _set(host["global_budgets"], shares)
    rows = np.asarray(context.layout.instruction)
    padding = len(host["instruction"]) - len(rows)
    _set(host["instruction"], np.pad(rows, (0, padding), "edge"))
    _set(host["instruction_real"], np.pad(np.ones(len(rows), np.float32), (0, padding)))
    host["confidence"].fill_(torch.nan)
    known, update = history.confidence if history is not None else {}, program.schedule.update
    for layer in set(update).intersection(known):
        host["confidence"][update.index(layer)] = float(known[layer])


def _set(target: torch.Tensor, values: np.ndarray) -> None:
    target.copy_(torch.from_numpy(np.ascontiguousarray(values)))
