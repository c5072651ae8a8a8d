"""Speed of a query, pruned against dense, as ratios within one run: ``specprune bench``."""
