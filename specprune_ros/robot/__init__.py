"""Arm kinematics, rotations and LIBERO's conventions: neither rclpy nor torch is imported here."""
