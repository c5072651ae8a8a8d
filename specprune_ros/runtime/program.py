"""One query as a function of tensors of fixed shape: picture to actions, without the host."""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Callable

import torch

from specprune_ros.pruning.base import PruneSession
from specprune_ros.pruning.config import (
    Budget,
    CameraBudgets,
    ControllerConfig,
    FrameInterval,
    SpecPruneConfig,
)
from specprune_ros.pruning.fixed import FixedInputs, FixedOutputs, FixedSession
from specprune_ros.pruning.given import GivenSession
from specprune_ros.pruning.lengths import FixedLengths, FixedShape
from specprune_ros.pruning.schedule import Schedule
from specprune_ros.runtime.packing import Field, PackedInputs, pack
from specprune_ros.runtime.streams import SideStream
from specprune_ros.vla.openvla_oft.model import OpenVLAOFT, TextInput

StageTimer = Callable[[str], AbstractContextManager]


@dataclass(frozen=True)
class ProgramKey:
    """What decides about the operations of a query, and nothing that is only a number in it.

    selection: a SpecPrune variant as :func:`structure` gives it, or None for one that neither
    selects nor remembers. lengths: None keeps everything. features: those of the patches are an
    input, and no tower runs. given: (layer, rows that enter it) where the rows are inputs.
    """

    shape: FixedShape
    selection: SpecPruneConfig | None = None
    lengths: FixedLengths | None = None
    features: bool = False
    given: tuple[tuple[int, int], ...] = ()


def structure(config: SpecPruneConfig) -> SpecPruneConfig:
    """A variant without budgets and thresholds, which are inputs of a program."""
    none = Budget(0, 0, 0)
    static = replace(
        config.static, tau_scene=0.0, tau_wrist=0.0, interval=FrameInterval()
    )
    return replace(
        config, name="", budgets=CameraBudgets(none, none, none, none), static=static,
        controller=ControllerConfig(), first_query="dense", refresh_every=0,
        allow_fine_below_coarse=False,
    )


@dataclass(frozen=True)
class ProgramOutput:
    """packed: bytes for the host. fields: what is in them, see :meth:`FixedProgram.parts`.

    history: scores for the next query, on the device, or None.
    """

    packed: torch.Tensor
    fields: tuple[Field, ...]
    stages: tuple[int, ...]  # layers after which rows went
    history: torch.Tensor | None


class FixedProgram:
    """The tensors of one query and the operations on them. Calling it runs the query.

    Inputs are written to ``packed.host`` (then ``packed.upload()``), ``frame``, ``references``,
    ``history`` and, where the key says so, ``features``.
    """

    def __init__(self, model: OpenVLAOFT, key: ProgramKey) -> None:
        self.model, self.key = model, key
        self.schedule: Schedule | None = None
        device, shape, size = model.device, key.shape, model.config.image_size
        self._cuda = device.type == "cuda"
        fields: dict[str, Field] = {
            "ids": (torch.int64, (1 + shape.tail,)),
            "shown": (torch.float32, (1 + shape.tail, 1)),
            "readout": (torch.int64, (shape.action_tokens,)),
            "real": (torch.bool, (shape.length,)),
        }
        if shape.proprio:
            fields["proprio"] = (torch.float32, (model.proprio_projector.fc1.in_features,))
        self.frame = _bytes(device, shape.cameras, size)
        fields |= {f"rows_{layer}": (torch.int64, (rows,)) for layer, rows in key.given}
        self.references = self.history = None
        if key.selection is not None:
            self.schedule = key.selection.schedule(model.config.llama.num_hidden_layers)
            references = 2 if key.selection.static.compare_last_query else 1
            fields |= _selection_fields(shape, self.schedule, references)
            self.references = _bytes(device, references, shape.cameras, size)
            self.history = torch.full(
                (len(self.schedule.global_), shape.cameras, shape.patches), -torch.inf,
                device=device,
            )
        self.packed = PackedInputs(fields, device)
        self.features: torch.Tensor | None = None
        if key.features:
            width = model.config.dino.width + model.config.siglip.width
            self.features = torch.zeros(
                (1, shape.visual, width), dtype=model.dtype, device=device
            )
        self._sides = [SideStream(device) for _ in range(2)] if self._cuda else []

    def __call__(self, timer: StageTimer = lambda stage: nullcontext()) -> ProgramOutput:
        """Run it. timer: per stage, which a capture has no use for."""
        model, given = self.model, self.packed.device
        towers, scores = self._sides or (None, None)
        with timer("selection"):
            session = self._session(scores)
        with timer("vision"):
            features = self.features
            if features is None:
                features = model.encode_images(model.pixel_values(self.frame), towers)
        with timer("projector"):
            text = TextInput(given["ids"], given["shown"])
            embeddings = model.embed(model.projector(features), text, given.get("proprio"))
        with timer("decoder"):
            padded = self.key.shape.prompt_tile > 1
            states = model.decoder(
                embeddings, given["readout"], session, given["real"] if padded else None
            ).states
        with timer("head"):
            read = model.read(states)
            output = self._output(read, session)
        for side in self._sides:  # a capture must end with its branches joined
            side.wait()
        return output

    def _session(self, side: Any) -> FixedSession | PruneSession:
        given, key = self.packed.device, self.key
        if key.selection is None:
            return GivenSession({layer: given[f"rows_{layer}"] for layer, _ in key.given})
        inputs = FixedInputs(
            frame=self.frame, references=self.references, history=self.history,
            **{name: given[name] for name in _SELECTION_INPUTS},
        )
        return FixedSession(
            key.selection, self.schedule, key.shape, key.lengths, inputs, side
        )

    def _output(self, read: torch.Tensor, session: FixedSession | PruneSession) -> ProgramOutput:
        found = session.outputs() if isinstance(session, FixedSession) else None
        tensors = [read, *_small_outputs(found)]
        fields = tuple((t.dtype, tuple(t.shape)) for t in tensors)
        stages = tuple(layer for layer, _ in found.stages) if found else ()
        return ProgramOutput(pack(tensors), fields, stages, found.history if found else None)


_SELECTION_INPUTS = (
    "has_reference", "global_budgets", "dynamic_budgets", "local_budgets", "tau", "instruction",
    "instruction_real", "readout", "real", "confidence",
)


def _selection_fields(shape: FixedShape, schedule: Schedule, references: int) -> dict[str, Field]:
    cameras, rows = shape.cameras, shape.instruction_rows
    return {
        "has_reference": (torch.bool, (references,)),
        "global_budgets": (torch.float32, (len(schedule.global_), cameras)),
        "dynamic_budgets": (torch.float32, (cameras,)),
        "local_budgets": (torch.float32, (cameras,)),
        "tau": (torch.float64, (cameras,)),
        "instruction": (torch.int64, (rows,)),
        "instruction_real": (torch.float32, (rows,)),
        "confidence": (torch.float64, (max(1, len(schedule.update)),)),
    }


def _small_outputs(found: FixedOutputs | None) -> list[torch.Tensor]:
    if found is None:
        return []
    return [found.sizes, found.confidence, *(positions for _, positions in found.stages)]


def _bytes(device: torch.device, *shape: int) -> torch.Tensor:
    """uint8 [..., S, S, 3] of zeros."""
    return torch.zeros((*shape, shape[-1], 3), dtype=torch.uint8, device=device)
