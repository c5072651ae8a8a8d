"""The pruning method: pure functions over token positions and scores, and explicit state."""
