"""The record of a training, written as specprune.json beside the weights."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping

AUXILIARY_LOSSES = ("patch entities", "pointing", "offset to target and destination")
GROUNDING = "attention on what the instruction names"  # where it has a weight
_OF_A_STAGE = (
    "image_size", "batch", "optimiser", "learning_rate", "weight_decay", "vision_share",
    "drop_share", "grounding", "bf16", "seed", "size",
)


def stages_of(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each training that led to a checkpoint was, the first one first; no paths."""
    if "stages" in card:
        return list(card["stages"])
    config = card.get("config", {})
    earlier: list[dict[str, Any]] = []
    start = Path(config.get("init") or "") / "specprune.json"
    if config.get("init") and start.is_file():
        earlier = stages_of(json.loads(start.read_text()))
    return [*earlier, stage(config, card)] if config else earlier


def stage(config: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, Any]:
    """The last stage of a card: its settings and how far it came."""
    return {
        **{name: config[name] for name in _OF_A_STAGE if name in config},
        "samples": card["samples"],
        "episodes": card["episodes"],
        "labels": card["labels"],
        "device": card["device"],
        "commit": card["commit"],
        "log": card["log"],
    }
