"""Write a network in the published OpenVLA-OFT format: what training saves and loading reads.

Every tensor that the format has is written, also those that inference never reads (the last ViT
blocks, final norms, SigLIP's pooling head, ``lm_head``), so that other loaders accept it too.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator, Mapping

import torch
from safetensors.torch import save_file

from specprune_ros.vla.openvla_oft.config import PATCH, ModelConfig, VitConfig
from specprune_ros.vla.openvla_oft.model import OpenVLAOFT

_SHARD_BYTES = 4 * 2**30
_PREPROCESSOR_NORMALISATION = {"inplace": False}


def write_checkpoint(
    directory: Path,
    model: OpenVLAOFT,
    tokenizer_json: str,
    statistics: Mapping[str, Any],
    card: Mapping[str, Any],
    dtype: torch.dtype = torch.bfloat16,
    step: str = "latest",
    seed: int = 0,
) -> None:
    """Write ``model`` (with its heads) into ``directory``.

    statistics: content of dataset_statistics.json. card: content of specprune.json (``trained``,
    how it was made). seed: of the random values of tensors that inference does not read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("model*.safetensors*"):
        old.unlink()
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(_used_tensors(model))
    for name, shape in _unused_shapes(config):
        if name not in tensors:
            tensors[name] = torch.randn(shape, generator=generator) * 0.02
    tensors = {name: _alone(t.detach().to("cpu", dtype)) for name, t in tensors.items()}
    _save_shards(directory, tensors)
    names = (("action_head", model.action_head), ("proprio_projector", model.proprio_projector))
    for component, module in names:
        if module is not None:
            # The published files were saved from a DDP wrapper, hence the prefix.
            state = {
                f"module.{name}": t.detach().to("cpu", dtype)
                for name, t in module.state_dict().items()
            }
            torch.save(state, directory / f"{component}--{step}_checkpoint.pt")
    text = config.llama
    _write_json(directory / "config.json", _config_json(config, str(dtype).split(".")[-1]))
    _write_json(directory / "dataset_statistics.json", statistics)
    _write_json(directory / "preprocessor_config.json", _preprocessor_json(config))
    _write_json(directory / "specprune.json", card)
    _write_json(
        directory / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": text.pad_token_id},
    )
    (directory / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, in memory of its own: parts of fused matrices share theirs."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _used_tensors(model: OpenVLAOFT) -> Iterator[tuple[str, torch.Tensor]]:
    parameters = dict(model.named_parameters())
    for source in model.sources():
        parts = [parameters[target] for target in source.targets]
        yield source.name, parts[0] if len(parts) == 1 else torch.cat(parts, dim=0)


def _unused_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    for vit in (config.dino, config.siglip):
        root = f"vision_backbone.{vit.prefix}."
        yield from _block_shapes(vit, f"{root}blocks.{vit.depth - 1}.")
        for kind in ("weight", "bias"):
            yield f"{root}norm.{kind}", (vit.width,)
    width, mlp = config.siglip.width, config.siglip.mlp_width
    root = f"vision_backbone.{config.siglip.prefix}.attn_pool."
    yield f"{root}latent", (1, 1, width)
    layers = {"q": width, "kv": 2 * width, "proj": width, "mlp.fc1": mlp}
    for name, rows in layers.items():
        yield f"{root}{name}.weight", (rows, width)
        yield f"{root}{name}.bias", (rows,)
    yield f"{root}mlp.fc2.weight", (width, mlp)
    for name in ("mlp.fc2.bias", "norm.weight", "norm.bias"):
        yield f"{root}{name}", (width,)
    yield (
        "language_model.lm_head.weight",
        (config.llama.vocab_size, config.llama.hidden_size),
    )


def _block_shapes(vit: VitConfig, block: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, mlp = vit.width, vit.mlp_width
    rows = {"attn.qkv": 3 * width, "attn.proj": width, "mlp.fc1": mlp}
    for name, n in rows.items():
        yield f"{block}{name}.weight", (n, width)
        yield f"{block}{name}.bias", (n,)
    yield f"{block}mlp.fc2.weight", (width, mlp)
    for name in ("mlp.fc2.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
        yield f"{block}{name}", (width,)
    if vit.registers >= 0:
        for n in "12":
            yield f"{block}ls{n}.scale_factor", (width,)


def _save_shards(directory: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        (directory / file).chmod(0o644)  # safetensors writes files that only the owner can read
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(directory / "model.safetensors.index.json", index)


def _config_json(config: ModelConfig, dtype: str) -> dict[str, Any]:
    text = config.llama
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "use_fused_vision_backbone": True,
        "timm_model_ids": [config.dino.timm_id, config.siglip.timm_id],
        "timm_override_act_layers": [None, None],
        "timm_model_overrides": [
            {"embed_dim": v.width, "depth": v.depth, "num_heads": v.heads}
            for v in (config.dino, config.siglip)
        ],
        "image_sizes": [config.image_size, config.image_size],
        "image_resize_strategy": "resize-naive",
        "n_action_bins": config.action_bins,
        "pad_to_multiple_of": config.pad_to_multiple_of,
        "pad_token_id": text.pad_token_id,
        "torch_dtype": dtype,
        "text_config": {
            "model_type": "llama",
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "pad_token_id": text.pad_token_id,
            "torch_dtype": dtype,
            "vocab_size": text.vocab_size,
        },
    }


def _preprocessor_json(config: ModelConfig) -> dict[str, Any]:
    towers = (config.dino, config.siglip)
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, config.image_size, config.image_size]] * 2,
        "means": [list(t.mean) for t in towers],
        "stds": [list(t.std) for t in towers],
        "tvf_normalize_params": [
            {**_PREPROCESSOR_NORMALISATION, "mean": list(t.mean), "std": list(t.std)}
            for t in towers
        ],
        "use_fused_vision_backbone": True,
        "patch_size": PATCH,
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
