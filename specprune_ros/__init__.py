"""SpecPrune-VLA for ROS 2: a Vision-Language-Action policy whose visual tokens are pruned.

Two public APIs: :mod:`specprune_ros.policy` (Python, no ROS) and the nodes in
:mod:`specprune_ros.ros`.
"""
from pkgutil import extend_path

# The generated subpackages ``specprune_ros.msg`` and ``.srv`` lie in the installed copy while the
# modules may be imported from a checkout (pytest, colcon build --symlink-install).
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
