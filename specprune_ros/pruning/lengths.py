"""How many rows leave each stage when every query must have the same shapes.

The exact stages keep a union, whose size depends on the data. A fixed program keeps so many rows,
whatever the data: it fills with the next best patches, or trims the least urgent ones.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.config import SpecPruneConfig
from specprune_ros.pruning.dynamic import kept_count
from specprune_ros.pruning.schedule import Schedule
from specprune_ros.tokens import TokenLayout
from specprune_ros.types import Mode

DYNAMIC_TILE = 16  # rows; finer than a tile of the static stage, as it costs nothing below one


@dataclass(frozen=True)
class FixedShape:
    """Sizes that programs are made for: those of a query, with its prompt padded.

    tail: text, placeholders, stop and padding. prompt_tile: the total is padded to a multiple of so
    many rows, so the last ``prompt_tile - 1`` of them may be padding.
    instruction_rows: rows of the instruction, padded to those of the longest prompt that fits.
    """

    cameras: int
    patches: int
    proprio: bool
    tail: int
    action_tokens: int
    instruction_rows: int
    prompt_tile: int

    @classmethod
    def of(cls, layout: TokenLayout, prompt_tile: int) -> FixedShape:
        """The shape that a query of this layout runs in."""
        # The total is aligned: then masks need no padding of their own.
        tail = align(layout.length, prompt_tile) - layout.text_start
        text = tail - layout.action_tokens - 1  # the longest prompt that fits
        return cls(
            len(layout.cameras),
            layout.patches_per_camera,
            layout.proprio,
            tail,
            layout.action_tokens,
            len(layout.instruction) if prompt_tile == 1 else text,
            prompt_tile,
        )

    @property
    def visual(self) -> int:
        return self.cameras * self.patches

    @property
    def others(self) -> int:
        """Rows beside the patches, padding included."""
        return 1 + self.proprio + self.tail

    @property
    def length(self) -> int:
        return self.visual + self.others

    @property
    def surely_real(self) -> int:
        """Rows that are no padding, whatever the prompt."""
        return self.length - self.prompt_tile + 1

    @property
    def fewest(self) -> int:
        """Rows that hold everything but patches, whatever the prompt."""
        return self.others


@dataclass(frozen=True)
class FixedLengths:
    """Rows of all kinds that leave each stage; a stage that drops nothing has those it gets.

    interim: after each speculation layer but the last. static: after the last. dynamic: after each
    pruning layer.
    """

    interim: tuple[int, ...]
    static: int
    dynamic: tuple[int, ...]


def align(rows: int, tile: int) -> int:
    """The next multiple of a tile."""
    return -(-rows // tile) * tile


def bucket_for(config: SpecPruneConfig, cameras: Sequence[str], mode: Mode) -> int:
    """Patches that the budgets of a mode ask for, all cameras together: K_G + K_D + K_L.

    The sets overlap and K_L counts once per speculation layer, so the union is now above, now
    below.
    """
    budgets = [config.budgets.of(name, mode) for name in cameras]
    return sum(budget.global_ + budget.dynamic + budget.local for budget in budgets)


def fixed_lengths(
    config: SpecPruneConfig,
    schedule: Schedule,
    shape: FixedShape,
    cameras: Sequence[str],
    mode: Mode,
    tile: int,
    bucket: int | None = None,
) -> FixedLengths:
    """Lengths for the budgets of a mode, totals being multiples of ``tile``.

    bucket: total after the static stage, in place of the one that follows from the budgets. Raises
    ConfigurationError for one that does not hold what is never pruned, and the floor.
    """
    budgets = [config.budgets.of(name, mode) for name in cameras]
    local, factor = sum(b.local for b in budgets), config.static.interim_factor
    asked = bucket_for(config, cameras, mode)
    floor = shape.fewest + min(config.dynamic.floor, shape.visual)
    if bucket is not None and bucket < floor:
        raise ConfigurationError(
            f"a bucket of {bucket} rows cannot hold {shape.fewest} rows that are never pruned and "
            f"the floor of {floor - shape.fewest} patches: use {align(floor, tile)} or more"
        )
    static = bucket or align(max(shape.fewest + asked, floor), tile)
    rows, interim = shape.length, []
    for _ in schedule.local[:-1]:
        if factor:
            wide = align(max(shape.fewest + asked + (factor - 1) * local, static), tile)
            rows = _dropped(shape, rows, wide)
        interim.append(rows)
    if schedule.local:
        rows = static = _dropped(shape, rows, static)
    else:
        static = rows
    dynamic, visual = [], rows - shape.others
    for _ in schedule.prune:
        visual = kept_count(visual, visual + shape.others, config.dynamic)
        rows = _dropped(shape, rows, align(shape.others + visual, min(tile, DYNAMIC_TILE)))
        dynamic.append(rows)
    return FixedLengths(tuple(interim), static, tuple(dynamic))


def bucket_ladder(config: SpecPruneConfig, shape: FixedShape, tile: int) -> list[int]:
    """Totals that may leave the static stage, ascending: from the fewest to all rows."""
    return [*range(fewest_bucket(config, shape, tile), shape.length, tile), shape.length]


def fewest_bucket(config: SpecPruneConfig, shape: FixedShape, tile: int) -> int:
    """The smallest multiple of ``tile`` that holds what is never pruned, and the floor."""
    return align(shape.fewest + min(config.dynamic.floor, shape.visual), tile)


def _dropped(shape: FixedShape, rows: int, wanted: int) -> int:
    """Rows after a stage: fewer only where padding surely goes with the first drop."""
    return wanted if wanted < rows and wanted <= shape.surely_real else rows
