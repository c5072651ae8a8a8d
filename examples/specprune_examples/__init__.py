"""Minimal plug-ins of specprune_ros, each as short as it can be and still work."""
