"""``specprune eval``: closed-loop success of pruned policies beside dense, paired by episode."""
