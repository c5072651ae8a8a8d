"""Recordings of episodes, their replay through policies, and the experiments on them. No ROS."""
