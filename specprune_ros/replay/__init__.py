"""Record and replay: bags of vla_node's inputs and outputs, and runs of the node on them.

``specprune record`` writes a bag, ``specprune replay`` sends one through the real node in
lock-step and writes a run, ``specprune replay --diff`` compares two runs: docs/replay.md.
"""
