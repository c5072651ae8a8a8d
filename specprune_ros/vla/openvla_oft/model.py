"""OpenVLA-OFT assembled: towers, projector, decoder, head; loading and one forward pass."""
from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from specprune_ros.errors import CheckpointError, ConfigurationError, ObservationError
from specprune_ros.tokens import TokenLayout
from specprune_ros.vla.openvla_oft.config import MODEL_TYPE, ModelConfig, read_model_config
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
WEIGHTS = ("full", "int8")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The discrete variant (no head file) decodes actions of this many dimensions per step.
_DISCRETE_ACTION_DIM = 7

StageTimer = Callable[[str], AbstractContextManager]


def _no_timer(stage: str) -> AbstractContextManager:
    return nullcontext()


@dataclass(frozen=True)
class ForwardResult:
    """normalized_actions float32 [C, A] on the host; rows and keys of each decoder layer; patch
    features [1, n_cam*N, F]."""

    normalized_actions: np.ndarray
    layer_positions: tuple[torch.Tensor, ...]
    layer_keys: tuple[int, ...]
    features: torch.Tensor


@dataclass(frozen=True)
class TextInput:
    """The tokens that come from no picture and no proprio, in order; BOS first.

    ids: int64 [1 + T]. shown: [1 + T, 1], 1 where the embedding counts, 0 where the row is a zero
    vector: placeholders of action tokens (only their position matters) and padding.
    """

    ids: torch.Tensor
    shown: torch.Tensor

    @staticmethod
    def arrays(prompt: Prompt, layout: TokenLayout, tail: int) -> tuple[np.ndarray, np.ndarray]:
        """ids int64 and shown float32 [1 + tail] on the host; what is longer is padding."""
        ids, shown = np.zeros(1 + tail, np.int64), np.zeros(1 + tail, np.float32)
        stop = len(prompt.ids) + layout.action_tokens
        ids[: len(prompt.ids)], ids[stop] = prompt.ids, STOP_ID
        shown[: len(prompt.ids)] = shown[stop] = 1.0
        return ids, shown


class OpenVLAOFT(nn.Module):
    """The network. Parameters are filled by :func:`load_model`.

    model_type: of the config.json that says so; a variant of the network has its own.
    """

    model_type = MODEL_TYPE

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
        self._scale: torch.Tensor | None = None  # [2, 2, 3], mean and std of each tower

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

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, as they are held."""
        held = sum(p.nbytes for p in self.parameters() if not p.is_meta)
        return held + self.decoder.int8_bytes

    def pixel_values(self, frame: torch.Tensor) -> torch.Tensor:
        """Policy's view uint8 [n_cam, S, S, 3] -> float32 [n_cam, 6, S, S] for both towers."""
        if self._scale is None or self._scale.device != frame.device:
            towers = (self.config.dino, self.config.siglip)
            self._scale = torch.tensor([[t.mean, t.std] for t in towers], device=frame.device)
        mean, std = self._scale[..., None, None].unbind(1)  # [2, 3, 1, 1]
        # Whole planes first: arithmetic on interleaved channels is slow.
        pixels = frame.permute(0, 3, 1, 2).contiguous().float().div_(255)
        return pixels[:, None].sub(mean).div_(std).flatten(1, 2)

    def encode_images(
        self, pixels: torch.Tensor, side: Any = None, fused: bool = True
    ) -> torch.Tensor:
        """[n_cam, 6, H, W] (DINOv2 channels, then SigLIP's) -> patch features [1, n_cam*N, F].

        All cameras are one batch per tower. side: where the second tower runs beside the first one
        (``pruning.fixed.Side``); None: after it.
        """
        pixels = pixels.to(self.device, self.dtype)
        with side(pixels) if side else nullcontext():
            siglip = self.siglip(pixels[:, 3:], fused)
        dino = self.dino(pixels[:, :3], fused)
        if side:
            side.wait()
        features = torch.cat([dino, siglip], dim=-1)
        return features.reshape(1, -1, features.shape[-1])

    def camera_features(
        self, frame: torch.Tensor, known: Sequence[torch.Tensor | None] = (), fused: bool = True
    ) -> torch.Tensor:
        """[n_cam, S, S, 3] uint8 -> patch features [1, n_cam*N, F].

        known: features [N, F] of the cameras whose towers need not run, None for the others; empty
        where all run.
        """
        fresh = [camera for camera, features in enumerate(known) if features is None]
        if len(fresh) == len(known):
            return self.encode_images(self.pixel_values(frame.to(self.device)), None, fused)
        parts = list(known)
        if fresh:
            seen = torch.stack([frame[camera] for camera in fresh]).to(self.device)
            features = self.encode_images(self.pixel_values(seen), None, fused)
            for camera, part in zip(fresh, features[0].chunk(len(fresh))):
                parts[camera] = part
        return torch.cat(parts)[None]

    def embed(
        self, visual: torch.Tensor, text: TextInput, proprio: torch.Tensor | None
    ) -> torch.Tensor:
        """Projected patches [1, V, D], normalised proprio [P] and the text -> [1, S, D]."""
        rows = self.decoder.embed_tokens(text.ids) * text.shown.to(visual.dtype)
        parts = [rows[:1], visual[0]]
        if proprio is not None:
            parts.append(self.proprio_projector(proprio.to(self.dtype))[None])
        return torch.cat([*parts, rows[1:]])[None]

    @torch.inference_mode()
    def forward(
        self,
        frame: torch.Tensor,
        prompt: Prompt,
        proprio: np.ndarray | None,
        layout: TokenLayout,
        session: DecoderSession,
        timer: StageTimer = _no_timer,
        fused: bool = True,
        known: Sequence[torch.Tensor | None] = (),
    ) -> ForwardResult:
        """One query. frame: uint8 [n_cam, S, S, 3]; proprio: normalised [P] or None.

        session: the pruner's part. fused: use the fused matrices where there are. known: see
        :meth:`camera_features`.
        """
        with timer("vision"):
            features = self.camera_features(frame, known, fused)
        with timer("projector"):
            arrays = TextInput.arrays(prompt, layout, layout.length - layout.text_start)
            ids, shown = (torch.from_numpy(array).to(self.device) for array in arrays)
            vector = None
            if proprio is not None:
                vector = torch.as_tensor(proprio, dtype=torch.float32).to(self.device)
            text = TextInput(ids, shown[:, None])
            embeddings = self.embed(self.projector(features), text, vector)
        with timer("decoder"):
            readout = torch.arange(layout.readout.start, layout.readout.stop, device=self.device)
            output = self.decoder(embeddings, readout, session, fused=fused)
        with timer("head"):
            actions = self.actions(self.read(output.states).cpu())
        return ForwardResult(actions, output.layer_positions, output.layer_keys, features)

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """Read-out states [R, D] -> float32 [C, A], or without a head the token ids [R]."""
        if self.action_head is not None:
            return self.action_head(states).float()
        return self.lm_head(states).argmax(dim=-1)

    def actions(self, read: torch.Tensor) -> np.ndarray:
        """What :meth:`read` gave, on the host -> normalised actions [C, A]."""
        return read.numpy() if self.action_head is not None else self._from_bins(read.numpy())

    def _from_bins(self, ids: np.ndarray) -> np.ndarray:
        """Action tokens of the variant without a head: bins at the end of the vocabulary."""
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
    directory: str | Path,
    device: str,
    dtype: str,
    action_head: str = "l1",
    network: type[OpenVLAOFT] = OpenVLAOFT,
) -> LoadedCheckpoint:
    """Load a checkpoint directory. Raises CheckpointError or ConfigurationError.

    action_head: ``l1`` reads the head's file; ``discrete`` decodes actions from the vocabulary.
    network: a subclass where parts of the network are others.
    """
    torch_device = resolve_device(device)
    torch_dtype = resolve_dtype(dtype, torch_device)
    files = read_checkpoint_files(directory)
    head_file = _head_file(files, action_head)
    try:
        return _load(files, head_file, torch_device, torch_dtype, network)
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
    network: type[OpenVLAOFT],
) -> LoadedCheckpoint:
    config = read_model_config(files, (network.model_type,))
    prompts = PromptEncoder(files.path / "tokenizer.json", config.llama.vocab_size)
    proprio_file = files.head("proprio_projector")
    with torch.device("meta"):
        model = network(config, discrete=head_file is None)
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


def check_weights(weights: str) -> None:
    """Raises ConfigurationError unless it is one of WEIGHTS: ``full`` keeps the decoder's matrices
    in their type, ``int8`` rounds them (``Decoder.to_int8``)."""
    if weights not in WEIGHTS:
        raise ConfigurationError(f"weights '{weights}' is not one of {', '.join(WEIGHTS)}")


def resolve_device(name: str) -> torch.device:
    """Raises ConfigurationError for a device that cannot be used."""
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


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of a name. ``auto`` is bfloat16 on CUDA and on a CPU with instructions for it, and
    float32 elsewhere. Raises ConfigurationError.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" or _cpu_has_bfloat16() else torch.float32
    if name not in _DTYPES:
        raise ConfigurationError(f"dtype '{name}' is not one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _cpu_has_bfloat16() -> bool:
    """Without dot products in bfloat16, a CPU runs it slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def check_layout(config: ModelConfig, layout: TokenLayout) -> None:
    """Raises ObservationError where a query would be longer than the positions of the model."""
    if layout.length > config.llama.max_position_embeddings:
        raise ObservationError(
            f"the query has {layout.length} tokens, the language model has positions for "
            f"{config.llama.max_position_embeddings}: use fewer cameras or a shorter instruction"
        )
