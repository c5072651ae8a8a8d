"""Models to measure: random weights of known shapes, made on the device, or a checkpoint."""
from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaConfig

from specprune_ros.errors import ConfigurationError
from specprune_ros.vla.openvla_oft.config import ModelConfig, VitConfig
from specprune_ros.vla.openvla_oft.files import CheckpointFiles
from specprune_ros.vla.openvla_oft.heads import L1ActionHead, ProprioProjector
from specprune_ros.vla.openvla_oft.model import (
    LoadedCheckpoint,
    OpenVLAOFT,
    load_model,
    resolve_device,
    resolve_dtype,
)
from specprune_ros.vla.openvla_oft.text import PromptEncoder
from specprune_ros.vla.openvla_oft.tiny import (
    build_tokenizer,
    tabletop_prompts,
    tabletop_statistics,
)

_IMAGE = 224  # px
_ACTION_DIM, _PROPRIO_DIM = 7, 8
_HALF = (0.5, 0.5, 0.5)
_DINO, _SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. dino, siglip: (width, blocks, heads, mlp width) of the towers."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    dino: tuple[int, int, int, int]
    siglip: tuple[int, int, int, int]
    head_width: int
    vocabulary: int


SHAPES = {
    # What a processor runs in a fraction of a second, and in a few seconds, with proportions like
    # those of the published model. (models/specprune-tiny is smaller still: 128 wide.)
    "tiny": Shape(384, 1024, 8, 6, (192, 4, 3, 768), (192, 4, 3, 768), 256, 576),
    "small": Shape(1024, 2816, 12, 16, (384, 7, 6, 1536), (384, 7, 6, 1536), 512, 576),
    # The published LIBERO checkpoints: Llama-2-7B, DINOv2 ViT-L, SigLIP so400m.
    "7b": Shape(4096, 11008, 32, 32, (1024, 24, 16, 4096), (1152, 27, 16, 4304), 4096, 32064),
}


def load(model: str, device: str, dtype: str, seed: int = 0) -> LoadedCheckpoint:
    """A shape by name with random weights, or the checkpoint in a directory.

    Raises ConfigurationError for what is neither, or CheckpointError.
    """
    if model in SHAPES:
        return random_model(SHAPES[model], model, device, dtype, seed)
    if not Path(model).is_dir():
        raise ConfigurationError(
            f"--model {model} is neither one of {', '.join(SHAPES)} nor a checkpoint directory"
        )
    return load_model(model, device, dtype)


def random_model(
    shape: Shape, name: str, device: str, dtype: str, seed: int = 0
) -> LoadedCheckpoint:
    """A model with random weights of standard scale, made on the device in its type.

    They say nothing about accuracy, but their sizes, values and activations are ordinary ones:
    zeros would run faster than a trained model does.
    """
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    with torch.device("meta"):
        model = OpenVLAOFT(_config(shape), discrete=False)
        model.action_head = L1ActionHead(shape.hidden, shape.head_width, _ACTION_DIM, blocks=2)
        model.proprio_projector = ProprioProjector(_PROPRIO_DIM, shape.hidden)
    generator = torch.Generator(where).manual_seed(seed)
    for module in model.modules():
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            made = torch.empty(parameter.shape, dtype=kind, device=where)
            fill_randomly(made, f"{type(module).__name__}.{leaf}", generator)
            setattr(module, leaf, nn.Parameter(made, requires_grad=False))
    files = CheckpointFiles(
        Path(name), {}, tabletop_statistics(), {}, {},
        card={"name": f"random weights of shape {name}", "trained": False},
    )
    model.fuse()
    model.decoder.rope_tables(1, model.decoder.norm.weight)
    return LoadedCheckpoint(model.eval(), files, _prompts(shape.vocabulary))


def fill_randomly(tensor: torch.Tensor, name: str, generator: torch.Generator) -> None:
    """Variance-preserving matrices, zero biases, unit norms; tokens and tables small.

    name: class of the module and name of the parameter.
    """
    if "lambda1" in name:
        tensor.fill_(0.5)
    elif tensor.dim() == 1:
        tensor.fill_(1.0 if name.endswith("weight") else 0.0)
    elif name.startswith("Embedding"):
        tensor.normal_(std=0.5, generator=generator)
    elif any(part in name for part in ("pos_embed", "cls_token", "reg_token")):
        tensor.normal_(std=0.2, generator=generator)
    else:
        tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)


def _config(shape: Shape) -> ModelConfig:
    def vit(timm_id: str, prefix: str, registers: int, sizes: tuple[int, int, int, int]):
        width, depth, heads, mlp = sizes
        return VitConfig(
            timm_id, prefix, width, depth, heads, mlp, _IMAGE // 14, registers, _HALF, _HALF
        )

    return ModelConfig(
        llama=LlamaConfig(
            hidden_size=shape.hidden,
            intermediate_size=shape.mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            vocab_size=shape.vocabulary,
            rms_norm_eps=1e-6,
        ),
        dino=vit(_DINO, "featurizer", 4, shape.dino),
        siglip=vit(_SIGLIP, "fused_featurizer", -1, shape.siglip),
        image_size=_IMAGE,
        pad_to_multiple_of=64,
        action_bins=256,
    )


def _prompts(vocabulary: int) -> PromptEncoder:
    """A small vocabulary: which pieces there are has no influence on time."""
    tokenizer = build_tokenizer(tabletop_prompts())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        file.write_text(tokenizer.to_str(), encoding="utf-8")
        return PromptEncoder(file, vocabulary)
