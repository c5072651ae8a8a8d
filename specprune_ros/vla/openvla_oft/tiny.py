"""Small networks of the OpenVLA-OFT architecture with random weights, and a tokenizer for them.

``python -m specprune_ros.vla.openvla_oft.tiny models/specprune-tiny`` wrote the shipped untrained
checkpoint. Random weights show that the machinery runs; they say nothing about success.
"""
from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from torch import nn
from transformers import LlamaConfig

from specprune_ros.vla.openvla_oft.config import PATCH, ModelConfig, VitConfig
from specprune_ros.vla.openvla_oft.heads import L1ActionHead, ProprioProjector
from specprune_ros.vla.openvla_oft.model import OpenVLAOFT
from specprune_ros.vla.openvla_oft.writer import write_checkpoint

_DINO, _SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"
# The constants of the published preprocessor_config.json (rounded to bfloat16).
_DINO_MEAN, _DINO_STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
_HALF = (0.5, 0.5, 0.5)
_VOCAB_PADDING = 64
# Random actions that move the arm fast for a while and slowly for a while.
SHIPPED_SEED = 20261123


@dataclass(frozen=True)
class Size:
    """Sizes of a small network; the towers have ``depth`` blocks, the last of which is unused."""

    hidden: int = 128
    mlp: int = 352
    layers: int = 8
    heads: int = 4
    vit_width: int = 64
    vit_depth: int = 3
    vit_heads: int = 4
    head_width: int = 128
    proprio_dim: int = 8
    action_dim: int = 7


def build_model(size: Size, vocab_size: int, seed: int, image_size: int = 224) -> OpenVLAOFT:
    """A network with random weights of standard scale, float32 on the CPU."""

    def vit(timm_id: str, prefix: str, registers: int, mean: tuple, std: tuple) -> VitConfig:
        width = size.vit_width
        return VitConfig(
            timm_id, prefix, width, size.vit_depth, size.vit_heads, 4 * width,
            image_size // PATCH, registers, mean, std,
        )

    config = ModelConfig(
        llama=LlamaConfig(
            hidden_size=size.hidden,
            intermediate_size=size.mlp,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            vocab_size=vocab_size + _VOCAB_PADDING,
            pad_token_id=vocab_size - 1,
        ),
        dino=vit(_DINO, "featurizer", 4, _DINO_MEAN, _DINO_STD),
        siglip=vit(_SIGLIP, "fused_featurizer", -1, _HALF, _HALF),
        image_size=image_size,
        pad_to_multiple_of=_VOCAB_PADDING,
        action_bins=256,
    )
    torch.manual_seed(seed)
    model = OpenVLAOFT(config, discrete=False)
    model.action_head = L1ActionHead(size.hidden, size.head_width, size.action_dim, blocks=2)
    model.proprio_projector = ProprioProjector(size.proprio_dim, size.hidden)
    for name, parameter in model.named_parameters():
        _initialise(name, parameter)
    return model.eval()


def _initialise(name: str, parameter: nn.Parameter) -> None:
    """Variance-preserving matrices, zero biases, unit norms; tokens and tables small."""
    with torch.no_grad():
        if "lambda1" in name:
            parameter.fill_(0.5)
        elif parameter.dim() == 1:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        elif "embed_tokens" in name:
            parameter.normal_(std=0.5)
        elif any(part in name for part in ("pos_embed", "cls_token", "reg_token")):
            parameter.normal_(std=0.2)
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5)


def build_tokenizer(texts: Sequence[str], vocab_size: int = 512) -> Tokenizer:
    """A byte-fallback BPE in the layout of Llama-2's, learnt from ``texts``.

    Ids: <unk> 0, <s> 1, </s> 2, 256 bytes, the pieces, <PAD> last.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=special,
        initial_alphabet=["▁", *"abcdefghijklmnopqrstuvwxyzIWO?:,."],
        show_progress=False,
    )
    # Word by word, so that no piece spans two words or punctuation; "\n" stays a byte.
    words = [word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)]
    tokenizer.train_from_iterator(words, trainer)
    state = json.loads(tokenizer.to_str())
    # The byte pieces are ordinary vocabulary, not special tokens to be matched in the text.
    state["added_tokens"] = [t for t in state["added_tokens"] if t["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken("<PAD>", special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def tabletop_statistics() -> dict[str, Any]:
    """Ranges of actions and proprio on the embedded table, for checkpoints made for it."""
    action = {
        "low": [-0.6, -0.6, -0.6, -0.2, -0.2, -0.2, 0.0],
        "high": [0.6, 0.6, 0.6, 0.2, 0.2, 0.2, 1.0],
    }
    proprio = {
        "low": [0.30, -0.32, 0.01, 2.8, -0.3, -0.3, 0.0, -0.04],
        "high": [0.75, 0.32, 0.50, 3.5, 0.3, 0.3, 0.04, 0.0],
    }

    def entry(bounds: dict[str, list[float]]) -> dict[str, Any]:
        low, high = bounds["low"], bounds["high"]
        middle = [(a + b) / 2 for a, b in zip(low, high)]
        spread = [(b - a) / 4 for a, b in zip(low, high)]
        return {"mean": middle, "std": spread, "min": low, "max": high, "q01": low, "q99": high}

    return {
        "specprune_tabletop": {
            "action": {**entry(action), "mask": [True] * 6 + [False]},
            "proprio": entry(proprio),
            "num_transitions": 0,
            "num_trajectories": 0,
        }
    }


def tabletop_prompts() -> list[str]:
    """Prompts with the words of the embedded tasks, to learn a vocabulary from."""
    words = (
        "pick up the red green blue yellow orange purple cube block and place it on the plate "
        "tray bowl push to left right of"
    )
    template = "In: What action should the robot take to {}?\nOut:"
    colours, places = ("red", "green", "blue", "yellow"), ("plate", "tray")
    tasks = [
        f"pick up the {colour} cube and place it on the {place}"
        for colour in colours
        for place in places
    ]
    return [template.format(task) for task in [*tasks, words]]


def write_tiny(directory: Path, size: Size = Size(), seed: int = SHIPPED_SEED) -> None:
    """Write an untrained checkpoint for the embedded table."""
    tokenizer = build_tokenizer(tabletop_prompts())
    model = build_model(size, tokenizer.get_vocab_size(), seed)
    card = {
        "name": "specprune-tiny",
        "trained": False,
        "note": "Random weights: the arm moves, it does not solve tasks.",
        "chunk_length": 8,
        "seed": seed,
        "made_by": "python -m specprune_ros.vla.openvla_oft.tiny",
    }
    write_checkpoint(directory, model, tokenizer.to_str(), tabletop_statistics(), card, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED)
    arguments = parser.parse_args()
    write_tiny(arguments.directory, seed=arguments.seed)


if __name__ == "__main__":
    main()
