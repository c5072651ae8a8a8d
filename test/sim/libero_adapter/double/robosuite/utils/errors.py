class RandomizationError(Exception):
    """Things found no place."""
