"""Sizes of the model, from config.json and the shapes of the tensors."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from transformers import LlamaConfig

from specprune_ros.errors import CheckpointError
from specprune_ros.vla.openvla_oft.files import CheckpointFiles

PATCH = 14
MODEL_TYPE = "openvla"  # of config.json
_DINO, _SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"
# Heads of the timm models; every other size is read off the tensors.
_HEADS = {_DINO: 16, _SIGLIP: 16}
# Id of the lone U+2581 piece that openvla-oft appends to the prompt (Llama-2 tokenizer).
LLAMA_EMPTY_PIECE = 29871


@dataclass(frozen=True)
class VitConfig:
    """One vision tower. ``depth`` counts every block of the checkpoint; the last is not used."""

    timm_id: str
    prefix: str
    width: int
    depth: int
    heads: int
    mlp_width: int
    grid: int
    registers: int  # prefix tokens besides CLS; -1: no prefix tokens at all (SigLIP)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def used_blocks(self) -> int:
        """Features come from the output of block depth - 2 (0-based)."""
        return self.depth - 1

    @property
    def patches(self) -> int:
        return self.grid**2


@dataclass(frozen=True)
class ModelConfig:
    """Everything the model needs to know beside its weights."""

    llama: LlamaConfig
    dino: VitConfig
    siglip: VitConfig
    image_size: int
    pad_to_multiple_of: int
    action_bins: int

    @property
    def patches_per_camera(self) -> int:
        return self.dino.patches


def read_model_config(
    files: CheckpointFiles, model_types: Sequence[str] = (MODEL_TYPE,)
) -> ModelConfig:
    """Combine config.json with the tensor shapes; raises CheckpointError where they disagree.

    model_types: those that are accepted; a backbone of another package has its own.
    """
    config = files.config
    if not isinstance(config.get("text_config", {}), dict):
        raise CheckpointError("config.json: text_config is not a JSON object")
    if config.get("model_type") not in model_types:
        raise CheckpointError(
            f"'{files.path / 'config.json'}' has model_type {config.get('model_type')!r}, expected "
            f"{' or '.join(map(repr, model_types))} ('{MODEL_TYPE}' is an OpenVLA-OFT checkpoint)"
        )
    if not config.get("use_fused_vision_backbone", False):
        raise CheckpointError(
            "use_fused_vision_backbone is false: only the fused DINOv2 + SigLIP backbone of "
            "OpenVLA-OFT is supported"
        )
    if "vision_backbone" in files.heads:
        raise CheckpointError(
            f"'{files.heads['vision_backbone'].name}' is a FiLM vision backbone (OFT+), which is "
            "not supported: use a checkpoint trained without FiLM"
        )
    if "noisy_action_projector" in files.heads:
        raise CheckpointError(
            f"'{files.heads['noisy_action_projector'].name}' belongs to a diffusion head, which is "
            "not supported: use a checkpoint with the L1 head"
        )
    text = dict(config.get("text_config") or {})
    text.pop("model_type", None)
    text.pop("torch_dtype", None)
    # Keys that are absent take the LlamaConfig defaults (rms_norm_eps 1e-6 among them).
    try:
        llama = LlamaConfig(**text)
    except Exception as error:  # transformers checks fields with error classes of its own
        reason = " ".join(str(error).split())
        raise CheckpointError(f"config.json: text_config cannot be used: {reason}") from None
    _check_llama(files, llama)
    image_size = int((config.get("image_sizes") or [224])[0])
    ids = list(config.get("timm_model_ids") or (_DINO, _SIGLIP))
    overrides = list(config.get("timm_model_overrides") or ({}, {}))
    if len(ids) != 2 or len(overrides) != 2 or not all(
        isinstance(override or {}, dict) for override in overrides
    ):
        raise CheckpointError(
            "config.json: timm_model_ids must name two vision towers, and timm_model_overrides, "
            "if present, must be a list of two objects"
        )
    normalisation = _normalisation(files.preprocessor)
    towers = [
        _read_vit(files, prefix, ids[i], overrides[i] or {}, image_size, *normalisation[i])
        for i, prefix in enumerate(("featurizer", "fused_featurizer"))
    ]
    return ModelConfig(
        llama=llama,
        dino=towers[0],
        siglip=towers[1],
        image_size=image_size,
        pad_to_multiple_of=int(config.get("pad_to_multiple_of", 64)),
        action_bins=int(config.get("n_action_bins", 256)),
    )


def _shape(files: CheckpointFiles, name: str) -> tuple[int, ...]:
    entry = files.tensors.get(name)
    if entry is None:
        raise CheckpointError(f"tensor '{name}' is missing from the shards of '{files.path}'")
    return entry.shape


def _check_llama(files: CheckpointFiles, llama: LlamaConfig) -> None:
    name = "language_model.model.embed_tokens.weight"
    expected = (llama.vocab_size, llama.hidden_size)
    if _shape(files, name) != expected:
        raise CheckpointError(
            f"tensor '{name}' has shape {_shape(files, name)}, but text_config (vocab_size, "
            f"hidden_size) says {expected}"
        )
    prefix = "language_model.model.layers."
    present = {n[len(prefix) :].split(".")[0] for n in files.tensors if n.startswith(prefix)}
    if len(present) != llama.num_hidden_layers:
        raise CheckpointError(
            f"the shards of '{files.path}' have {len(present)} decoder layers, but text_config "
            f"(num_hidden_layers) says {llama.num_hidden_layers}"
        )


def _read_vit(
    files: CheckpointFiles,
    prefix: str,
    timm_id: str,
    override: Mapping[str, Any],
    image_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> VitConfig:
    root = f"vision_backbone.{prefix}."
    patch_shape = _shape(files, root + "patch_embed.proj.weight")
    if len(patch_shape) != 4 or patch_shape[1:] != (3, PATCH, PATCH):
        raise CheckpointError(
            f"tensor '{root}patch_embed.proj.weight' has shape {patch_shape}, expected "
            f"(width, 3, {PATCH}, {PATCH})"
        )
    width = patch_shape[0]
    if override.get("embed_dim", width) != width:
        raise CheckpointError(
            f"config.json: timm_model_overrides says embed_dim {override['embed_dim']} for "
            f"'{timm_id}', its tensors have {width}"
        )
    blocks = {
        int(name[len(root) + 7 :].split(".")[0])
        for name in files.tensors
        if name.startswith(root + "blocks.")
    }
    depth = int(override.get("depth", len(blocks)))
    if blocks != set(range(depth)) or depth < 2:
        raise CheckpointError(
            f"'{root}blocks' has {len(blocks)} blocks in the shards, expected {depth}: a shard or "
            "an entry of the index is missing"
        )
    heads = int(override.get("num_heads", _HEADS.get(timm_id, 0)))
    if heads <= 0 or width % heads:
        raise CheckpointError(
            f"config.json: unknown number of attention heads for '{timm_id}' of width {width}; "
            "give timm_model_overrides with num_heads"
        )
    registers = -1
    if root + "cls_token" in files.tensors:
        registers = _shape(files, root + "reg_token")[1]
    grid = image_size // PATCH
    positions = _shape(files, root + "pos_embed")
    if positions != (1, grid * grid, width):
        raise CheckpointError(
            f"tensor '{root}pos_embed' has shape {positions}, expected (1, {grid * grid}, {width}) "
            f"for images of {image_size} px"
        )
    mlp_width = _shape(files, root + "blocks.0.mlp.fc1.weight")[0]
    return VitConfig(timm_id, prefix, width, depth, heads, mlp_width, grid, registers, mean, std)


def _normalisation(preprocessor: Mapping[str, Any]) -> list[tuple[tuple, tuple]]:
    """Mean and standard deviation per tower: the stored (bf16-rounded) constants are in force."""
    stored = preprocessor.get("tvf_normalize_params")
    try:
        if stored:
            pairs = [(tuple(p["mean"]), tuple(p["std"])) for p in stored]
        else:
            pairs = [
                (tuple(m), tuple(s))
                for m, s in zip(preprocessor["means"], preprocessor["stds"])
            ]
        valid = len(pairs) == 2 and all(
            len(values) == 3 and all(isinstance(v, (int, float)) for v in values)
            for pair in pairs
            for values in pair
        )
    except (KeyError, TypeError):
        valid = False
    if not valid:
        raise CheckpointError(
            "preprocessor_config.json: no tvf_normalize_params (or means and stds) with three "
            "numbers for each of the two vision towers"
        )
    return pairs
