"""Shadow mode: now and then a query is run dense as well, to see how far pruning moves the actions.

It costs a dense query each time, after the chunk has been published. Used by the inference thread.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from .messages import Published
from .query import DENSE, QueryRunner, Source


class Shadow:
    """Compares published chunks with dense ones and switches to dense where they differ too much.

    distance: of the last comparison, NaN before the first. beyond: comparisons over the limit.
    """

    def __init__(self, runner: QueryRunner, warn: Callable[[str], None]) -> None:
        self.distance = math.nan
        self.comparisons = 0
        self.beyond = 0
        self._runner = runner
        self._warn = warn
        self._since = 0  # pruned queries since the last comparison

    @property
    def dense_left(self) -> int:
        """Queries that will still be dense because a comparison was over the limit."""
        return self._runner.dense_left

    def compare(self, published: Published) -> Published:
        """What was published, with its distance from dense where it is its turn."""
        result = published.result
        settings = result.job.settings
        every = settings["shadow.every"]
        if every == 0 or settings["pruning"] == DENSE or result.source is not Source.POLICY:
            return published
        self._since += 1
        if self._since < every:
            return published
        self._since = 0
        try:
            self.distance = self._runner.shadow(result)
        except Exception as error:  # the chunk is out already; the next query is judged by itself
            self._warn(f"the shadow query failed: {type(error).__name__}: {error}")
            return published
        self.comparisons += 1
        limit, queries = settings["shadow.limit"], settings["shadow.dense_queries"]
        if not self.distance <= limit:
            self.beyond += 1
            self._runner.dense_left = queries
            self._warn(f"pruned actions differ from dense ones by {self.distance:.3f}, more than "
                       f"shadow.limit ({limit}): the next {queries} queries are dense")
        return replace(published, shadow_distance=self.distance)
