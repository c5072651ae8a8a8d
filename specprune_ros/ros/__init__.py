"""The ROS 2 nodes. This is the only part of the package that imports rclpy."""
