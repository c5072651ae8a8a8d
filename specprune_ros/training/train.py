"""Training of a small policy: resumable, seeded, the same on CPU and GPU."""
from __future__ import annotations

import json
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch import nn

from specprune_ros.errors import ConfigurationError
from specprune_ros.training.data import BatchMaker, Demonstrations
from specprune_ros.training.network import Losses, TrainingNetwork
from specprune_ros.vla.openvla_oft.text import PromptEncoder
from specprune_ros.vla.openvla_oft.tiny import Size, build_model, build_tokenizer
from specprune_ros.vla.openvla_oft.writer import write_checkpoint

_PROMPT = "In: What action should the robot take to {}?\nOut:"
_WARM_UP_STEPS = 50


@dataclass(frozen=True)
class TrainConfig:
    """samples: training samples in all; vision_share of them train the towers alone first."""

    data: tuple[str, ...]
    name: str = "specprune-tabletop"
    image_size: int = 224
    samples: int = 1_500_000
    vision_share: float = 0.1
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    bf16: bool = False
    device: str = "cpu"
    threads: int = 1
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

    def __init__(self, config: TrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.device = torch.device(config.device)
        self.data = Demonstrations([Path(d) for d in config.data], config.image_size)
        self.statistics = self.data.statistics_json(config.name.replace("-", "_"))
        prompts = [_PROMPT.format(text) for text in self.data.instructions]
        self.tokenizer = build_tokenizer(prompts)
        (out / "tokenizer.json").write_text(self.tokenizer.to_str(), encoding="utf-8")
        vocabulary = self.tokenizer.get_vocab_size()
        encoder = PromptEncoder(out / "tokenizer.json", vocabulary)
        ids = {text: encoder.encode(text).ids for text in self.data.instructions}
        model = build_model(config.size, vocabulary, config.seed, config.image_size)
        self.network = TrainingNetwork(model, len(self.data.entities)).to(self.device)
        self.batches = BatchMaker(self.data, self.statistics, ids, self.device)
        self.train_pool, self.validation_pool = self.data.split()
        self.rng = np.random.default_rng(config.seed)
        self.done = 0
        self.log: list[dict[str, Any]] = []
        self._optimiser: torch.optim.Optimizer | None = None

    # Running -------------------------------------------------------------------------------

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> None:
        """Train to the end, from the saved state if there is one; writes the checkpoint."""
        self.resume()
        total, batch = self.config.samples, self.config.batch
        smooth: dict[str, float] = {}
        started, first, saved = time.monotonic(), self.done, time.monotonic()
        while self.done < total:
            stage = self.stage
            losses = self._step(stage)
            self.done += batch
            for name, value in losses.items():
                smooth[name] = 0.98 * smooth.get(name, value) + 0.02 * value
            elapsed = time.monotonic() - started
            report(Progress(stage, self.done, total, smooth, (self.done - first) / elapsed))
            if time.monotonic() - saved > self.config.save_seconds:
                self.save(smooth)
                saved = time.monotonic()
        self.save(smooth)
        self.write()

    @property
    def stage(self) -> str:
        return "vision" if self.done < self.config.vision_share * self.config.samples else "full"

    def _step(self, stage: str) -> dict[str, float]:
        optimiser = self._ready_optimiser(stage)
        rate = self._learning_rate(stage)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = self.batches.draw(self.train_pool, self.config.batch, self.rng)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            if stage == "vision":
                loss = self.network.patch_loss(self.network.features(batch.images, True), batch)
                values = {"patch": loss}
            else:
                losses, _ = self.network(batch)
                loss, values = losses.total, _named(losses)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained(stage), 1.0)
        optimiser.step()
        return {name: float(value.detach()) for name, value in values.items()}

    def _trained(self, stage: str) -> list[nn.Parameter]:
        if stage == "full":
            return list(self.network.parameters())
        model = self.network.model
        modules = (model.dino, model.siglip, self.network.patch_head)
        return [p for module in modules for p in module.parameters()]

    def _ready_optimiser(self, stage: str) -> torch.optim.Optimizer:
        if self._optimiser is None or self._optimiser_stage != stage:
            self._optimiser_stage = stage
            self._optimiser = torch.optim.AdamW(
                self._trained(stage),
                lr=self.config.learning_rate,
                weight_decay=self.config.weight_decay,
                betas=(0.9, 0.95),
            )
        return self._optimiser

    def _learning_rate(self, stage: str) -> float:
        """Warm-up, constant, then linear decay over the last half of a stage."""
        border = self.config.vision_share * self.config.samples
        begin, end = (0, border) if stage == "vision" else (border, self.config.samples)
        share = (self.done - begin) / max(end - begin, 1)
        step = (self.done - begin) / self.config.batch
        warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
        decay = 1.0 if share < 0.5 else max(0.03, (1 - share) / 0.5)
        return self.config.learning_rate * warm * decay

    @torch.no_grad()
    def validate(self, limit: int = 1024) -> dict[str, float]:
        """Mean losses on held-out episodes, and the offset error (m) far from the target.

        Near the target the nearest cube betrays it; only far frames test the language.
        """
        self.network.eval()
        sums: dict[str, float] = {}
        count = 0
        for batch in self.batches.sweep(self.validation_pool[:limit], self.config.batch):
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
            "rng": json.dumps(self.rng.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
        }
        partial = self._state_file.with_suffix(".tmp")
        torch.save(state, partial)
        partial.replace(self._state_file)
        (self.out / "log.json").write_text(json.dumps(self._card(), indent=1))

    def resume(self) -> None:
        """Continue from the saved state. Raises ConfigurationError if it is of other settings."""
        if not self._state_file.is_file():
            return
        state = torch.load(self._state_file, map_location=self.device, weights_only=True)
        saved, present = json.loads(state["config"]), json.loads(json.dumps(asdict(self.config)))
        for free in ("device", "threads", "save_seconds", "bf16"):
            saved.pop(free), present.pop(free)
        if saved != present:
            changed = [key for key in present if saved.get(key) != present[key]]
            raise ConfigurationError(
                f"'{self._state_file}' was made with other settings ({', '.join(changed)}): "
                "choose another output directory, or delete it"
            )
        self.network.load_state_dict(state["network"])
        self.done = state["done"]
        if state["optimiser"] is not None:
            self._ready_optimiser(state["stage"]).load_state_dict(state["optimiser"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        torch.set_rng_state(state["torch_rng"].cpu())
        log = self.out / "log.json"
        if log.is_file():
            self.log = json.loads(log.read_text())["log"]

    def write(self) -> None:
        """The checkpoint in the published format, in ``out/checkpoint``."""
        card = {**self._card(), "trained": True, "chunk_length": self.data.label_actions.shape[1]}
        write_checkpoint(
            self.out / "checkpoint",
            self.network.model,
            self.tokenizer.to_str(),
            self.statistics,
            card,
            seed=self.config.seed,
        )

    def _card(self) -> dict[str, Any]:
        seeds = self.data.seed
        return {
            "name": self.config.name,
            "config": asdict(self.config),
            "episodes": self.data.episodes,
            "pictures": 2 * len(seeds),
            "labels": len(self.data.label_actions),
            "data_seeds": [int(seeds.min()), int(seeds.max())],
            "instructions": self.data.instructions,
            "auxiliary_losses": ["patch entities", "pointing", "offset to target and destination"],
            "samples": self.done,
            "torch": torch.__version__,
            "device": str(self.device),
            "commit": _commit(),
            "log": self.log,
        }


def _named(losses: Losses) -> dict[str, torch.Tensor]:
    return {
        "action": losses.action,
        "patch": losses.patch,
        "pointing": losses.pointing,
        "offset": losses.offset,
    }


def _commit() -> str | None:
    """Commit of the checkout the code runs from, or None outside of one or without git."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None
