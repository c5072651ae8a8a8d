"""Backbones by the ``model_type`` of a checkpoint's config.json: OpenVLA-OFT, and plug-ins.

A backbone of another package registers through the entry-point group ``specprune_ros.backbones``:
``model_type = module:load``, where ``load(directory, device, dtype, action_head)`` returns a
:class:`~specprune_ros.vla.openvla_oft.model.LoadedCheckpoint`.
"""
from __future__ import annotations

import json
from pathlib import Path

from specprune_ros.errors import ConfigurationError
from specprune_ros.plugins import call_plugin, find_plugin, plugin_names, source
from specprune_ros.vla.openvla_oft.config import MODEL_TYPE
from specprune_ros.vla.openvla_oft.model import LoadedCheckpoint, load_model

ENTRY_POINT_GROUP = "specprune_ros.backbones"
_KIND = "backbone"


def backbone_names() -> tuple[str, ...]:
    """Every ``model_type`` that :func:`load_backbone` knows."""
    return (MODEL_TYPE, *(n for n in plugin_names(ENTRY_POINT_GROUP) if n != MODEL_TYPE))


def load_backbone(
    directory: str | Path, device: str, dtype: str, action_head: str = "l1"
) -> LoadedCheckpoint:
    """Load a checkpoint directory with the backbone that its config.json names.

    Raises CheckpointError (also for a ``model_type`` that nobody registered) or ConfigurationError.
    """
    entry = find_plugin(ENTRY_POINT_GROUP, _model_type(directory), _KIND, (MODEL_TYPE,))
    if entry is None:
        return load_model(directory, device, dtype, action_head)
    loaded = call_plugin(entry, _KIND, directory, device, dtype, action_head)
    if not isinstance(loaded, LoadedCheckpoint):
        raise ConfigurationError(
            f"the backbone {source(entry)} gave {type(loaded).__name__}: return a LoadedCheckpoint"
        )
    return loaded


def _model_type(directory: str | Path) -> str:
    """What config.json says; where it cannot be read, load_model() tells what is wrong with it."""
    try:
        config = json.loads((Path(directory).expanduser() / "config.json").read_text("utf-8"))
        return str(config["model_type"])
    except (OSError, TypeError, KeyError, ValueError):
        return MODEL_TYPE
