"""Simulators behind one protocol; none of them knows ROS."""
