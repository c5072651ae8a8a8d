"""Start vla_node and, with sim:=true, the simulated world (specprune_ros/bringup.py has the table).

An argument that is left empty keeps the value of the parameter file.
"""
# ruff: noqa: I001 (the folder launch/ of this package is not ROS's package launch)
import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from specprune_ros.bringup import (
    ARGUMENTS,
    BOOLEAN,
    FASTDDS_PROFILES,
    LOG_LEVELS,
    fastdds_variable,
    launch_nodes,
    localhost_setting,
)

PACKAGE = 'specprune_ros'


def generate_launch_description():
    """Declare the arguments; the nodes follow once their values are known."""
    arguments = [DeclareLaunchArgument(
        argument.name, default_value='',
        description=f'{argument.help} (empty: as in params_file)',
        **({'choices': ['', *argument.choices]} if argument.choices else {}))
        for argument in ARGUMENTS]
    variable = fastdds_variable()  # FASTDDS_DEFAULT_PROFILES_FILE; older ROS has another name
    # Images do not fit Fast DDS's default shared memory. What the user has set stays.
    profiles = [] if variable in os.environ else [SetEnvironmentVariable(
        variable, PathJoinSubstitution([FindPackageShare(PACKAGE), FASTDDS_PROFILES]))]
    # Whoever can publish on the domain can move the arm: other machines only if the user says so.
    name, value = localhost_setting(os.environ)
    discovery = [] if name in os.environ else [SetEnvironmentVariable(name, value)]
    return LaunchDescription([
        *profiles,
        *discovery,
        *arguments,
        DeclareLaunchArgument(
            'sim', default_value='true', choices=list(BOOLEAN),
            description='start the simulated world; false on a real robot'),
        DeclareLaunchArgument(
            'use_sim_time', default_value=LaunchConfiguration('sim'), choices=list(BOOLEAN),
            description='take time from /clock (default: as sim)'),
        DeclareLaunchArgument(
            'namespace', default_value='', description='namespace of the nodes and their topics'),
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution([FindPackageShare(PACKAGE), 'config', 'vla.yaml']),
            description='parameter file of the nodes'),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=list(LOG_LEVELS),
            description='log level of the nodes'),
        OpaqueFunction(function=start_nodes),
    ])


def start_nodes(context):
    """Make the actions that start the nodes, now that the arguments have values."""
    def value(name):
        return LaunchConfiguration(name).perform(context)

    nodes = launch_nodes({argument.name: value(argument.name) for argument in ARGUMENTS},
                         sim=value('sim') == 'true',
                         use_sim_time=value('use_sim_time') == 'true',
                         namespace=value('namespace'))
    return [Node(
        package=PACKAGE, executable=spec.executable, name=spec.name,
        namespace=value('namespace'), output='screen',
        parameters=[value('params_file'),
                    {name: as_parameter(setting) for name, setting in parameters.items()}],
        arguments=['--ros-args', '--log-level', value('log_level')])
        for spec, parameters in nodes]


def as_parameter(setting):
    """Keep a string a string: launch would read off, 1 or yes as YAML."""
    return ParameterValue(setting, value_type=str) if isinstance(setting, str) else setting
