"""Quality of service of the topics.

Functions, because rclpy writes parameter overrides into the profile it is given.
"""
from copy import copy

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data


def sensor_data() -> QoSProfile:
    """Pictures and joint states, as drivers publish them: best effort, the newest five."""
    return copy(qos_profile_sensor_data)


def results(depth: int = 10) -> QoSProfile:
    """Results that nobody may miss: reliable."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def latched() -> QoSProfile:
    """The last value, also for those who come later: status, instruction, robot description."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                      durability=DurabilityPolicy.TRANSIENT_LOCAL)
