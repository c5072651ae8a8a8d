"""Training of a small policy: resumable, seeded, the same on CPU and GPU."""
from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from specprune_ros.errors import ConfigurationError
from specprune_ros.provenance import git_commit
from specprune_ros.training.card import AUXILIARY_LOSSES, GROUNDING, stage, stages_of
from specprune_ros.training.data import BatchMaker, Demonstrations
from specprune_ros.training.dropping import BY_ATTENTION, KEPT
from specprune_ros.training.network import Losses, TrainingNetwork
from specprune_ros.training.optimiser import Optimiser
from specprune_ros.training.parallel import agree, average_gradients, run_processes
from specprune_ros.training.warm_start import HEADS_FILE, WarmStart, auxiliary_heads
from specprune_ros.vla.openvla_oft.text import PromptEncoder
from specprune_ros.vla.openvla_oft.tiny import Size, build_model, build_tokenizer
from specprune_ros.vla.openvla_oft.writer import write_checkpoint

_PROMPT = "In: What action should the robot take to {}?\nOut:"
CAMERA_NAMES = ("primary", "wrist")  # as observations of the simulators name them
_WARM_UP_STEPS = 50
_VALIDATED = 512  # labels of held-out episodes at each save


@dataclass(frozen=True)
class TrainConfig:
    """What decides the result.

    samples: training samples in all; vision_share of them train the towers alone first. minutes:
    end after so long instead, the schedule following the clock (0: no such limit; with it a run
    cannot be repeated bit by bit). init: checkpoint directory to start from. processes: each has
    its part of every batch, on one machine's CPUs. drop_share: of the batches of the full network,
    those that lose patches (training/dropping.py). grounding: weight of the loss on attention
    (training/grounding.py).
    """

    data: tuple[str, ...]
    init: str = ""
    name: str = "specprune-tabletop"
    image_size: int = 224
    samples: int = 1_500_000
    vision_share: float = 0.1
    batch: int = 64
    optimiser: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    bf16: bool = False
    device: str = "cpu"
    threads: int = 1
    drop_share: float = 0.0
    grounding: float = 0.0
    processes: int = 1
    minutes: float = 0.0
    seed: int = 0
    save_seconds: float = 240.0
    size: Size = field(default_factory=Size)


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows: samples done of all, smoothed losses, samples per second."""

    stage: str
    done: int
    total: int
    losses: dict[str, float]
    rate: float


class Trainer:
    """Owns network, optimiser and data of one run; ``out`` receives state, log and checkpoint."""

    def __init__(self, config: TrainConfig, out: Path, rank: int = 0) -> None:
        self.config, self.out, self.rank = config, out, rank
        if config.batch % config.processes:
            raise ConfigurationError(
                f"a batch of {config.batch} cannot be shared by {config.processes} processes"
            )
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.device = torch.device(config.device)
        start = WarmStart.read(Path(config.init)) if config.init else None
        self._start_card = start.card if start else {}
        self.data = Demonstrations([Path(d) for d in config.data], config.image_size)
        if start:
            self.statistics, self.tokenizer_json = start.statistics, start.tokenizer_json
        else:
            self.statistics = self._own_statistics()
            prompts = [_PROMPT.format(text) for text in self.data.instructions]
            self.tokenizer_json = build_tokenizer(prompts).to_str()
        tokenizer = out / "tokenizer.json"
        partial = tokenizer.with_suffix(f".{rank}.tmp")
        partial.write_text(self.tokenizer_json, encoding="utf-8")
        partial.replace(tokenizer)
        vocabulary = Tokenizer.from_str(self.tokenizer_json).get_vocab_size()
        encoder = PromptEncoder(tokenizer, vocabulary)
        ids = {text: encoder.encode(text).ids for text in self.data.instructions}
        model = build_model(config.size, vocabulary, config.seed, config.image_size)
        self.network = TrainingNetwork(model, len(self.data.entities), config.grounding)
        if start:
            start.fill(self.network)
        if config.bf16 and self.device.type == "cpu":
            self.network.use_plain_attention()
        self.network.to(self.device)
        self.batches = BatchMaker(self.data, self.statistics, ids, self.device)
        self.train_pool, self.validation_pool = self.data.split()
        self.done = 0
        self.seconds = 0.0  # of this and earlier parts of the run
        self.log: list[dict[str, Any]] = []
        self._optimiser: Optimiser | None = None

    def _own_statistics(self) -> dict[str, Any]:
        """Those of the first start: they must not move when data is added to a running training."""
        file = self.out / "dataset_statistics.json"
        if not file.is_file():
            statistics = self.data.statistics_json(self.config.name.replace("-", "_"))
            partial = file.with_suffix(f".{self.rank}.tmp")
            partial.write_text(json.dumps(statistics, indent=1))
            partial.replace(file)
        return json.loads(file.read_text())

    # Running -------------------------------------------------------------------------------

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> None:
        """Train to the end, from the saved state if there is one; writes the checkpoint."""
        self.resume()
        total, batch = self.config.samples, self.config.batch
        smooth: dict[str, float] = {}
        first, before = self.done, self.seconds
        started, saved = time.monotonic(), time.monotonic()
        while self.share < 1:
            stage = self.stage
            losses = self._step(stage)
            self.done += batch
            for name, value in losses.items():
                smooth[name] = 0.98 * smooth.get(name, value) + 0.02 * value
            # Every process must see the same time: stage and rate follow it.
            elapsed = agree(time.monotonic() - started)
            self.seconds = before + elapsed
            report(Progress(stage, self.done, total, smooth, (self.done - first) / elapsed))
            if self.rank == 0 and time.monotonic() - saved > self.config.save_seconds:
                self.save(smooth)
                saved = time.monotonic()
        if self.rank == 0:
            self.save(smooth)

    @property
    def _visual_tokens(self) -> int:
        return self.data.pictures.cameras * self.network.model.config.dino.patches

    @property
    def share(self) -> float:
        """Part of the run that is done, 0 to 1, by samples or by the clock."""
        done = self.done / self.config.samples
        if self.config.minutes:
            done = max(done, self.seconds / 60 / self.config.minutes)
        return min(done, 1.0)

    @property
    def stage(self) -> str:
        return "vision" if self.share < self.config.vision_share else "full"

    def _step(self, stage: str) -> dict[str, float]:
        optimiser = self._ready_optimiser(stage)
        # Drawn from the count of samples, so that a resumed run draws what an unbroken one does.
        draw = [self.config.seed, self.rank, self.done]
        rng = np.random.default_rng(draw)
        torch.manual_seed(int(rng.integers(2**63)))
        # Lengths are common to the processes, so that none waits for another.
        common = np.random.default_rng([self.config.seed, self.done])
        length = self.batches.draw_length(self.train_pool, common)
        dropping = common.random() < self.config.drop_share
        kept = round(common.choice(KEPT) * self._visual_tokens) if dropping else None
        by_attention = bool(dropping) and common.random() < BY_ATTENTION
        size = self.config.batch // self.config.processes
        batch = self.batches.draw(self.train_pool, size, rng, length)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            if stage == "vision":
                loss = self.network.patch_loss(self.network.features(batch.images, True), batch)
                values = {"patch": loss}
            else:
                losses, _ = self.network(batch, kept=kept, by_attention=by_attention)
                loss, values = losses.total, _named(losses)
        optimiser.zero_grad()
        loss.backward()
        parameters = list(self._trained(stage).values())
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step(self._learning_rate(stage))
        return {name: float(value.detach()) for name, value in values.items()}

    def _trained(self, stage: str) -> dict[str, nn.Parameter]:
        towers = ("model.dino.", "model.siglip.", "patch_head.")
        return {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if stage == "full" or name.startswith(towers)
        }

    def _ready_optimiser(self, stage: str) -> Optimiser:
        if self._optimiser is None or self._optimiser_stage != stage:
            self._optimiser_stage = stage
            self._optimiser = Optimiser(
                self.config.optimiser,
                self._trained(stage),
                self.config.learning_rate,
                self.config.weight_decay,
            )
        return self._optimiser

    def _learning_rate(self, stage: str) -> float:
        """Warm-up, constant, then linear decay over the last half of a stage."""
        border = self.config.vision_share
        begin, end = (0.0, border) if stage == "vision" else (border, 1.0)
        share = (self.share - begin) / max(end - begin, 1e-9)
        step = self._stage_steps(stage)
        warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
        decay = 1.0 if share < 0.5 else max(0.03, (1 - share) / 0.5)
        return self.config.learning_rate * warm * decay

    def _stage_steps(self, stage: str) -> float:
        """Steps since the stage began (an estimate where the clock decides)."""
        if stage == "vision" or self.share <= 0:
            return self.done / self.config.batch
        begin = self.config.vision_share / self.share * self.done
        return (self.done - begin) / self.config.batch

    @torch.no_grad()
    def validate(self, limit: int = _VALIDATED) -> dict[str, float]:
        """Mean losses on labels of held-out episodes, spread over all of them."""
        self.network.eval()
        pool = self.validation_pool[:: max(1, len(self.validation_pool) // limit)]
        sums: dict[str, float] = {}
        count = 0
        for batch in self.batches.sweep(pool[:limit], self.config.batch):
            losses, _ = self.network(batch, augment=False)
            for name, value in _named(losses).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch.ids)
            count += len(batch.ids)
        return {name: value / max(count, 1) for name, value in sums.items()}

    # State ---------------------------------------------------------------------------------

    @property
    def _state_file(self) -> Path:
        return self.out / "training_state.pt"

    def save(self, losses: dict[str, float]) -> None:
        """Write all that resuming needs, whole or not at all, and a line of the log."""
        entry = {"samples": self.done, "train": losses, "validation": self.validate()}
        self.log.append(entry)
        state = {
            "config": json.dumps(asdict(self.config)),
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict() if self._optimiser else None,
            "stage": getattr(self, "_optimiser_stage", None),
            "done": self.done,
            "seconds": self.seconds,
        }
        partial = self._state_file.with_suffix(".tmp")
        torch.save(state, partial)
        partial.replace(self._state_file)
        (self.out / "log.json").write_text(json.dumps(self._card(), indent=1))
        self.write()

    def resume(self) -> None:
        """Continue from the saved state. Raises ConfigurationError if it is of other settings."""
        if not self._state_file.is_file():
            return
        state = torch.load(self._state_file, map_location=self.device, weights_only=True)
        saved, present = json.loads(state["config"]), json.loads(json.dumps(asdict(self.config)))
        for free in ("device", "threads", "processes", "save_seconds", "bf16", "minutes"):
            saved.pop(free), present.pop(free)
        if saved != present:
            changed = [key for key in present if saved.get(key) != present[key]]
            raise ConfigurationError(
                f"'{self._state_file}' was made with other settings ({', '.join(changed)}): "
                "choose another output directory, or delete it"
            )
        self.network.load_state_dict(state["network"])
        self.done, self.seconds = state["done"], state["seconds"]
        if state["optimiser"] is not None:
            self._ready_optimiser(state["stage"]).load_state_dict(state["optimiser"])
        log = self.out / "log.json"
        if log.is_file():
            self.log = json.loads(log.read_text())["log"]

    def write(self) -> None:
        """The checkpoint in the published format, in ``out/checkpoint``."""
        card = {**self._card(), "trained": True, "chunk_length": self.data.label_actions.shape[1]}
        write_checkpoint(
            self.out / "checkpoint",
            self.network.model,
            self.tokenizer_json,
            self.statistics,
            card,
            seed=self.config.seed,
        )
        torch.save(auxiliary_heads(self.network), self.out / "checkpoint" / HEADS_FILE)

    def _card(self) -> dict[str, Any]:
        """Without paths: they mean nothing where the checkpoint goes."""
        seeds, config = self.data.seed, asdict(self.config)
        card = {
            "name": self.config.name,
            "cameras": list(CAMERA_NAMES),
            "data": [Path(directory).name for directory in self.config.data],
            "episodes": self.data.episodes,
            "pictures": 2 * len(seeds),
            "labels": len(self.data.label_actions),
            "data_seeds": [int(seeds.min()), int(seeds.max())],
            "instructions": self.data.instructions,
            "auxiliary_losses": [*AUXILIARY_LOSSES, *[GROUNDING] * bool(self.config.grounding)],
            "samples": self.done,
            "minutes": round(self.seconds / 60, 1),
            "torch": torch.__version__,
            "device": str(self.device),
            "commit": git_commit(),
            "log": self.log,
        }
        earlier = stages_of(self._start_card)
        return {**card, "stages": [*earlier, stage(config, card)]}


def train(
    config: TrainConfig, out: Path, report: Callable[[Progress], None] = lambda progress: None
) -> None:
    """Train, in one process or several; ``report`` is called in this one."""
    if config.processes == 1:
        Trainer(config, out).run(report)
    else:
        run_processes(config.processes, partial(_train_part, config, out), report)


def _train_part(
    config: TrainConfig, out: Path, rank: int, report: Callable[[Progress], None]
) -> None:
    Trainer(config, out, rank).run(report)


def _named(losses: Losses) -> dict[str, torch.Tensor]:
    grounding = {"grounding": losses.grounding} if losses.grounding_weight else {}
    return {
        "action": losses.action,
        "patch": losses.patch,
        "pointing": losses.pointing,
        "offset": losses.offset,
        **grounding,
    }
