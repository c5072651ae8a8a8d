"""vla_node as a process with the policy of the tests: fake_vla_process.py --ros-args ...

It starts quickly and needs little CPU.
"""
import sys

from fake_policy import FakePolicy

from specprune_ros.ros.vla_node import main

if __name__ == "__main__":
    sys.exit(main(sys.argv, FakePolicy))
