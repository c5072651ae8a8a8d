"""The example client of vla_node, over DDS."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))


def test_one_line_per_query(ros):
    from specprune_examples.watch_stats import StatsWatcher
    from specprune_ros.msg import PruneStats
    lines = []
    ros.add(StatsWatcher(lines.append, context=ros.context))
    publisher = ros.node("policy").create_publisher(PruneStats, "prune_stats", 10)
    stats = PruneStats(
        episode=2, query_number=5, method="specprune", mode=PruneStats.FINE,
        cameras=["primary", "wrist"], tokens_in=[256, 256],
        visual_tokens_per_layer=[256, 256, 40, 44], flops=3.0, dense_flops=10.0,
        observation_age=0.125)
    assert ros.spin_until(lambda: lines, again=lambda: publisher.publish(stats))
    assert lines[0] == ("episode 2 query 5: specprune, fine, 84 of 512 visual tokens in the last "
                        "layer, 30% of the FLOPs, 0.125 s old")
