"""OpenVLA-OFT assembled: towers, projector, decoder, head; loading and one forward pass."""
from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping

import numpy as np
import torch
from torch import nn

from specprune_ros.errors import CheckpointError, ConfigurationError, ObservationError
from specprune_ros.tokens import TokenLayout
from specprune_ros.vla.openvla_oft.config import ModelConfig, read_model_config
from specprune_ros.vla.openvla_oft.decoder import Decoder, DecoderSession, decoder_sources
from specprune_ros.vla.openvla_oft.files import CheckpointFiles, read_checkpoint_files
from specprune_ros.vla.openvla_oft.heads import (
    L1ActionHead,
    ProprioProjector,
    load_action_head,
    load_proprio_projector,
)
from specprune_ros.vla.openvla_oft.text import STOP_ID, Prompt, PromptEncoder
from specprune_ros.vla.openvla_oft.vision import (
    Projector,
    build_dino,
    build_siglip,
    tower_sources,
)
from specprune_ros.vla.openvla_oft.weights import Source, load_weights

_log = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The discrete variant (no head file) decodes actions of this many dimensions per step.
_DISCRETE_ACTION_DIM = 7

StageTimer = Callable[[str], AbstractContextManager]


def _no_timer(stage: str) -> AbstractContextManager:
    return nullcontext()


@dataclass(frozen=True)
class ForwardResult:
    """normalized_actions float32 [C, A] on the host; rows and keys of each decoder layer."""

    normalized_actions: np.ndarray
    layer_positions: tuple[torch.Tensor, ...]
    layer_keys: tuple[int, ...]


class OpenVLAOFT(nn.Module):
    """The network. Parameters are filled by :func:`load_model`."""

    def __init__(self, config: ModelConfig, discrete: bool) -> None:
        super().__init__()
        self.config = config
        self.dino = build_dino(config.dino)
        self.siglip = build_siglip(config.siglip)
        hidden = config.llama.hidden_size
        self.projector = Projector(config.dino.width + config.siglip.width, hidden)
        self.decoder = Decoder(config.llama)
        # Only the variant without an action head reads its actions off the vocabulary.
        self.lm_head = nn.Linear(hidden, config.llama.vocab_size, bias=False) if discrete else None
        self.action_head: L1ActionHead | None = None
        self.proprio_projector: ProprioProjector | None = None

    @property
    def device(self) -> torch.device:
        return self.decoder.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.norm.weight.dtype

    @property
    def action_dim(self) -> int:
        return self.action_head.action_dim if self.action_head else _DISCRETE_ACTION_DIM

    def sources(self) -> list[Source]:
        """Every tensor of the shards that this network needs."""
        sources = [
            *tower_sources(self.config.dino, "dino"),
            *tower_sources(self.config.siglip, "siglip"),
            *decoder_sources(self.config.llama, "decoder"),
        ]
        for layer in ("fc1", "fc2", "fc3"):
            for kind in ("weight", "bias"):
                name = f"projector.{layer}.{kind}"
                sources.append(Source(name, (name,)))
        if self.lm_head is not None:
            sources.append(Source("language_model.lm_head.weight", ("lm_head.weight",)))
        return sources

    def fuse(self) -> OpenVLAOFT:
        """Join matrices that read the same rows, for inference; weights stop training."""
        for part in (self.dino, self.siglip, self.decoder):
            part.fuse()
        return self

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n_cam, 6, H, W] (DINOv2 channels, then SigLIP's) -> patch features [1, n_cam*N, F]."""
        pixels = pixels.to(self.device, self.dtype)
        features = torch.cat([self.dino(pixels[:, :3]), self.siglip(pixels[:, 3:])], dim=-1)
        return features.reshape(1, -1, features.shape[-1])

    def embed(
        self, visual: torch.Tensor, prompt: Prompt, proprio: np.ndarray | None, layout: TokenLayout
    ) -> torch.Tensor:
        """Projected patches [1, V, D] and the rest of the sequence -> [1, S, D]."""
        table = self.decoder.embed_tokens
        ids = torch.tensor([*prompt.ids, STOP_ID], device=self.device)
        text = table(ids)[None]
        parts = [text[:, :1], visual]
        if proprio is not None:
            vector = torch.as_tensor(proprio, dtype=torch.float32).to(self.device, self.dtype)
            parts.append(self.proprio_projector(vector)[None, None])
        # The placeholders of the action tokens are zero vectors: only their position matters.
        zeros = visual.new_zeros(1, layout.action_tokens, visual.shape[-1])
        parts += [text[:, 1:-1], zeros, text[:, -1:]]
        return torch.cat(parts, dim=1)

    @torch.inference_mode()
    def forward(
        self,
        pixels: torch.Tensor,
        prompt: Prompt,
        proprio: np.ndarray | None,
        layout: TokenLayout,
        session: DecoderSession,
        timer: StageTimer = _no_timer,
    ) -> ForwardResult:
        """One query. proprio: normalised [P] or None; session: the pruner's part."""
        with timer("vision"):
            features = self.encode_images(pixels)
        with timer("projector"):
            embeddings = self.embed(self.projector(features), prompt, proprio, layout)
        with timer("decoder"):
            readout = torch.arange(layout.readout.start, layout.readout.stop, device=self.device)
            output = self.decoder(embeddings, readout, session)
        with timer("head"):
            if self.action_head is not None:
                actions = self.action_head(output.states).float().cpu().numpy()
            else:
                actions = self._discrete_actions(output.states)
        return ForwardResult(actions, output.layer_positions, output.layer_keys)

    def _discrete_actions(self, states: torch.Tensor) -> np.ndarray:
        """Action tokens of the variant without a head: bins at the end of the vocabulary."""
        ids = self.lm_head(states).argmax(dim=-1).cpu().numpy()
        bins = self.config.action_bins
        edges = np.linspace(-1, 1, bins)
        centres = (edges[:-1] + edges[1:]) / 2
        vocabulary = self.config.llama.vocab_size - self.config.pad_to_multiple_of
        index = np.clip(vocabulary - ids - 1, 0, len(centres) - 1)
        return centres[index].reshape(-1, self.action_dim)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A network with what belongs to it."""

    model: OpenVLAOFT
    files: CheckpointFiles
    prompts: PromptEncoder

    @property
    def statistics(self) -> Mapping:
        return self.files.statistics


def load_model(
    directory: str | Path, device: str, dtype: str, action_head: str = "l1"
) -> LoadedCheckpoint:
    """Load a checkpoint directory. Raises CheckpointError or ConfigurationError.

    action_head: ``l1`` reads the head's file; ``discrete`` decodes actions from the vocabulary.
    """
    torch_device, torch_dtype = _device(device), _dtype(dtype)
    files = read_checkpoint_files(directory)
    head_file = _head_file(files, action_head)
    try:
        return _load(files, head_file, torch_device, torch_dtype)
    except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
        # Values of the JSON files end up deep in transformers, whose errors do not name them.
        raise CheckpointError(
            f"the settings in '{files.path / 'config.json'}' cannot be used "
            f"({type(error).__name__}: {error}): compare them with the published file"
        ) from error


def _head_file(files: CheckpointFiles, action_head: str) -> Path | None:
    if action_head not in ("l1", "discrete"):
        raise ConfigurationError(f"action_head '{action_head}' is not one of l1, discrete")
    file = files.head("action_head")
    if action_head == "l1" and file is None:
        raise CheckpointError(
            f"'{files.path}' has no action_head--*_checkpoint.pt: download it, or, if the policy "
            "was trained to give its actions as tokens, load it with action_head='discrete'"
        )
    return file if action_head == "l1" else None


def _load(
    files: CheckpointFiles,
    head_file: Path | None,
    torch_device: torch.device,
    torch_dtype: torch.dtype,
) -> LoadedCheckpoint:
    config = read_model_config(files)
    prompts = PromptEncoder(files.path / "tokenizer.json", config.llama.vocab_size)
    proprio_file = files.head("proprio_projector")
    with torch.device("meta"):
        model = OpenVLAOFT(config, discrete=head_file is None)
    hidden = config.llama.hidden_size
    # Heads first: they are small, and a head that does not fit is found before the long part.
    heads = (
        load_action_head(head_file, hidden, torch_device, torch_dtype) if head_file else None,
        load_proprio_projector(proprio_file, hidden, torch_device, torch_dtype)
        if proprio_file
        else None,
    )
    if proprio_file is None:
        _log.warning("'%s' has no proprio_projector file: proprio is not used", files.path)
    load_weights(model, files, model.sources(), torch_device, torch_dtype)
    model.action_head, model.proprio_projector = heads
    model.fuse()
    model.decoder.rope_tables(1, model.decoder.norm.weight)  # an unknown rope_type shows here
    return LoadedCheckpoint(model.eval(), files, prompts)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(f"device '{name}' is not known to torch: {error}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"device '{name}' is not supported: use 'cpu' or 'cuda'")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "device 'cuda' was asked for, but torch sees no CUDA device: use device 'cpu', or "
            "install a CUDA build of torch and its driver"
        )
    return device


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ConfigurationError(f"dtype '{name}' is not one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def check_layout(config: ModelConfig, layout: TokenLayout) -> None:
    """Raises ObservationError where a query would be longer than the positions of the model."""
    if layout.length > config.llama.max_position_embeddings:
        raise ObservationError(
            f"the query has {layout.length} tokens, the language model has positions for "
            f"{config.llama.max_position_embeddings}: use fewer cameras or a shorter instruction"
        )
