"""``python -m specprune_ros``: start the nodes and keep them up until Ctrl-C."""
import sys

from specprune_ros.bringup import main

sys.exit(main())
