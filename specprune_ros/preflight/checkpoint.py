"""What must fit in a checkpoint: statistics and head, cameras and positions, tokenizer and ids."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ObservationError
from ..policy import Policy
from ..provenance import file_hash
from ..vla.openvla_oft.config import LLAMA_EMPTY_PIECE
from ..vla.openvla_oft.statistics import Bounds, Statistics, select_statistics
from ..vla.openvla_oft.text import BOS_ID, STOP_ID, PromptEncoder
from .findings import Finding, fail, ok, warn

_ROOM = 64  # tokens of an instruction that must fit at least; LIBERO's longest has 34
# "In: What action should the robot take to turn on the stove?\nOut:" and the empty piece, as the
# tokenizer of the published checkpoints (Llama-2's) codes it.
_SAMPLE = "turn on the stove"
_SAMPLE_IDS = (1, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304, 2507, 373, 278, 380, 994,
               29973, 13, 3744, 29901, LLAMA_EMPTY_PIECE)


def check_unnorm_key(table: Mapping[str, Any], unnorm_key: str | None, action_dim: int
                     ) -> Finding:
    """Which data set's statistics are used, of those in dataset_statistics.json.

    Raises CheckpointError where none can be chosen, or the one chosen is malformed.
    """
    chosen = select_statistics(table, unnorm_key, action_dim).key
    return ok("unnorm_key", chosen if len(table) == 1 else f"{chosen}, of {len(table)} data sets")


def check_statistics(statistics: Statistics, action_dim: int, proprio_dim: int | None
                     ) -> list[Finding]:
    """The statistics in use against the head and the proprio projector (None: there is none)."""
    action = _bounds("action statistics", statistics.action, action_dim, "action head", fail)
    name = "proprio statistics"
    if proprio_dim is None:
        return [action, ok(name, "not needed: there is no proprio projector")]
    if statistics.proprio is None:
        return [action, warn(
            name, f"'{statistics.key}' has none, and the checkpoint has a proprio projector: the "
            "policy runs without proprio, which it was not trained for",
            "Use the dataset_statistics.json of the fine-tuning run")]
    return [action, _bounds(name, statistics.proprio, proprio_dim, "proprio projector", warn)]


def _bounds(name: str, bounds: Bounds, size: int, network: str,
            constant: Callable[[str, str, str], Finding]) -> Finding:
    """Length against the network, and a range in every dimension that is scaled."""
    if bounds.size != size:
        return fail(name, f"{bounds.size} dimensions, but the {network} has {size}",
                    "Choose another unnorm_key, or the statistics of the fine-tuning run")
    flat = np.flatnonzero(bounds.mask & (bounds.low >= bounds.high)).tolist()
    if flat:
        return constant(name, f"dimensions {flat} have no range (q01 = q99): whatever the network "
                              "gives or sees there is one value",
                        "Use the statistics of the fine-tuning run")
    scaled = int(bounds.mask.sum())
    return ok(name, f"{size} dimensions as the {network}, {scaled} of them scaled, q01 < q99")


def check_cameras(policy: Policy, cameras: Sequence[str]) -> Finding:
    """Whether a query of these cameras fits the positions, and the card if it says how many."""
    name = "cameras"
    config, count = policy.model.config, _cameras_of(policy.card)
    if count is not None and count != len(cameras):
        return fail(name, f"{len(cameras)} cameras, but the checkpoint was trained with {count}",
                    "Set the parameter cameras to as many")
    prompt = policy.inputs.prompt(_SAMPLE)
    try:
        layout = policy.inputs.layout(tuple(cameras), prompt, policy.uses_proprio)
    except ObservationError as error:
        return fail(name, str(error), "Use fewer cameras")
    positions = config.llama.max_position_embeddings
    text = (f"{len(cameras)} x {config.patches_per_camera} patches; a query has {layout.length} "
            f"tokens of {positions} positions")
    first, last = prompt.instruction_span
    room = positions - layout.length + last - first
    if room < _ROOM:
        return warn(name, f"{text}: room for an instruction of {room} tokens",
                    "Use fewer cameras, or short instructions")
    return ok(name, text if count is not None else
              f"{text} (the checkpoint does not say how many it was trained with)")


def _cameras_of(card: Mapping[str, Any]) -> int | None:
    """Cameras that a card names or counts; OpenVLA-OFT's word for their number is known, too."""
    cameras = card.get("cameras", card.get("num_images_in_input"))
    if isinstance(cameras, (list, tuple)):
        return len(cameras)
    return cameras if isinstance(cameras, int) else None


def check_chunk_length(policy: Policy) -> Finding:
    """The chunk length in use against the card's, if it has one."""
    trained = policy.card.get("chunk_length")
    if trained not in (None, policy.chunk_length):
        return fail("chunk length", f"{policy.chunk_length} actions, but the checkpoint was "
                    f"trained for {trained}", f"Set the parameter chunk_length to {trained}")
    return ok("chunk length", f"{policy.chunk_length} actions of {policy.action_dim} dimensions"
              + ("" if trained else " (no file of the checkpoint says it)"))


def check_trained(policy: Policy) -> Finding:
    """WARN for random weights."""
    label = str(policy.card.get("name", "the checkpoint"))
    if policy.trained:
        return ok("weights", f"{label}: not marked as untrained")
    return warn("weights", f"{label} is untrained: its actions mean nothing",
                "Use a trained checkpoint before anything real moves")


def check_tokenizer(file: Path, vocab_size: int) -> Finding:
    """Whether the tokenizer gives the ids that the policy was trained with."""
    encoder = PromptEncoder(file, vocab_size)
    prompt = encoder.encode(_SAMPLE)
    digest = file_hash(file)[:16]
    if prompt.ids[0] != BOS_ID or prompt.ids[-1] != encoder.empty_piece_id or (
            STOP_ID in prompt.ids or max(prompt.ids) >= vocab_size):
        return fail("tokenizer", f"a prompt becomes {list(prompt.ids)}: it must begin with {BOS_ID}"
                                 f" (BOS), end with {encoder.empty_piece_id} (the empty piece) and "
                                 f"lie below {vocab_size}", "Use the tokenizer.json of the "
                                                            "checkpoint")
    if vocab_size > LLAMA_EMPTY_PIECE and prompt.ids != _SAMPLE_IDS:
        return fail("tokenizer", "a prompt does not become the ids of Llama-2's tokenizer, which "
                                 f"the language model was trained with (sha256 {digest}...)",
                    "Use the tokenizer.json of the checkpoint")
    kind = "Llama-2's ids" if vocab_size > LLAMA_EMPTY_PIECE else "a small vocabulary of its own"
    return ok("tokenizer", f"{kind}, sha256 {digest}...")
