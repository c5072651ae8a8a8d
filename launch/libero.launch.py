"""Start vla_node and a LIBERO suite: vla.launch.py with the suite chosen here (docs/libero.md).

Arguments of vla.launch.py are arguments of this file, too, such as checkpoint, pruning and device.
"""
# ruff: noqa: I001 (the folder launch/ of this package is not ROS's package launch)
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from specprune_ros.sim.libero.suites import PYTHON_VARIABLE, SUITES

PACKAGE = 'specprune_ros'


def generate_launch_description():
    """Declare the two arguments of LIBERO and include the launch file of the nodes."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'suite', default_value=SUITES[0], choices=list(SUITES), description='suite of LIBERO'),
        DeclareLaunchArgument(
            'libero_python', default_value=EnvironmentVariable(PYTHON_VARIABLE, default_value=''),
            description='python of an environment that has LIBERO (empty: that of the nodes)'),
        SetEnvironmentVariable(PYTHON_VARIABLE, LaunchConfiguration('libero_python')),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(PathJoinSubstitution(
                [FindPackageShare(PACKAGE), 'launch', 'vla.launch.py'])),
            launch_arguments={'suite': LaunchConfiguration('suite')}.items()),
    ])
