"""Exact cost of the decoder for any schedule of rows and keys (2 FLOPs per multiply-add)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence


@dataclass(frozen=True)
class DecoderShape:
    """hidden D, mlp I, width of all query heads, width of all key heads, layers."""

    hidden: int
    mlp: int
    query_width: int
    key_width: int
    layers: int

    def layer_flops(self, rows: int, keys: int) -> float:
        """FLOPs of one layer that computes ``rows`` and attends to ``keys``.

        With equal widths this is n (8 D^2 + 6 D I) + 4 n m D: projections, gated MLP, attention.
        """
        projections = 4 * self.hidden * (self.query_width + self.key_width)
        mlp = 6 * self.hidden * self.mlp
        return float(rows * (projections + mlp) + 4 * rows * keys * self.query_width)

    def flops(self, rows: Sequence[int], keys: Sequence[int]) -> float:
        """FLOPs of all layers; a layer with 0 keys is skipped."""
        return sum(self.layer_flops(n, m) for n, m in zip(rows, keys) if m)

    def dense_flops(self, length: int) -> float:
        return self.layers * self.layer_flops(length, length)
