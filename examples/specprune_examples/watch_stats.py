"""A client of vla_node: one line per query, from the topic prune_stats.

    pip install ./examples
    python -m specprune_examples.watch_stats            # in the ROS domain of the nodes
"""
from __future__ import annotations

import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from specprune_ros.msg import PruneStats


class StatsWatcher(Node):
    """Tells what each query kept. tell: takes the line."""

    def __init__(self, tell: Callable[[str], object], **options: object) -> None:
        super().__init__("stats_watcher", **options)
        self._tell = tell
        self.create_subscription(PruneStats, "prune_stats", self._on_stats, 10)

    def _on_stats(self, stats: PruneStats) -> None:
        self._tell(line(stats))


def line(stats: PruneStats) -> str:
    """Query, mode, tokens that entered the last layer, decoder FLOPs over dense, age."""
    mode = "fine" if stats.mode == PruneStats.FINE else "coarse"
    last = sum(stats.visual_tokens_per_layer[-len(stats.cameras):]) if stats.cameras else 0
    share = stats.flops / stats.dense_flops if stats.dense_flops else float("nan")
    return (f"episode {stats.episode} query {stats.query_number}: {stats.method}, {mode}, "
            f"{last} of {sum(stats.tokens_in)} visual tokens in the last layer, "
            f"{share:.0%} of the FLOPs, {stats.observation_age:.3f} s old")


def main() -> None:
    rclpy.init()
    node = StatsWatcher(lambda text: sys.stdout.write(text + "\n"))
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
