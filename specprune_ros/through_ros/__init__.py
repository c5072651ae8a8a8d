"""``specprune eval --through-ros``: the episodes of ``eval``, played by the nodes over DDS."""
