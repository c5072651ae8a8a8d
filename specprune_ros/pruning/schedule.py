"""At which decoder layers something happens. Layer indices are 0-based, stated for 32 layers."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterable

from specprune_ros.errors import ConfigurationError

if TYPE_CHECKING:
    from specprune_ros.pruning.config import DynamicConfig, StaticConfig

REFERENCE_DEPTH = 32  # Llama-2-7B


def scale_layers(layers: Iterable[int], depth: int) -> tuple[int, ...]:
    """Layer indices stated for 32 layers, at the same relative depth of another decoder.

    Index l becomes round(l * (depth - 1) / 31): the first and the last layer map to themselves.
    Duplicates merge, so a shallow decoder has fewer stages.
    """
    last = REFERENCE_DEPTH - 1
    return tuple(sorted({(2 * l * (depth - 1) + last) // (2 * last) for l in layers}))


def check_layers(name: str, layers: tuple[int, ...]) -> None:
    """Raises ConfigurationError unless the indices ascend within 32 layers."""
    if list(layers) != sorted(set(layers)) or any(not 0 <= l < REFERENCE_DEPTH for l in layers):
        raise ConfigurationError(
            f"{name} is {layers}: give ascending layer indices of 0..{REFERENCE_DEPTH - 1}"
        )


@dataclass(frozen=True)
class Schedule:
    """Layers of one decoder. local: speculation; update and prune: of the dynamic stage."""

    local: tuple[int, ...]
    global_: tuple[int, ...]
    update: tuple[int, ...]
    prune: tuple[int, ...]

    @classmethod
    def of(cls, static: StaticConfig, dynamic: DynamicConfig, depth: int) -> Schedule:
        """The schedule of a decoder with ``depth`` layers.

        Speculation layers are the first ones of any decoder; the others scale. Pruning after the
        last layer would change nothing and is left out, and so are dynamic stages that would fall
        among the speculation layers, and updates that no pruning follows.
        """
        local = tuple(l for l in static.local_layers if l < depth - 1)
        first = max(local, default=-1) + 1
        prune = scale_layers(dynamic.prune_layers, depth) if dynamic.enabled else ()
        prune = tuple(l for l in prune if first <= l < depth - 1)
        update = scale_layers(dynamic.update_layers, depth)
        update = tuple(l for l in update if l <= max(prune, default=-1))
        return cls(local, scale_layers(static.global_layers, depth), update, prune)
