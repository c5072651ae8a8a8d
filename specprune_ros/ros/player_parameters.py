"""The parameters of chunk_player_node."""
from __future__ import annotations

from ..errors import ConfigurationError
from ..robot.chunk import Blending
from ..robot.joint_motion import JointLimits
from .parameters import Change, ParameterSpec, Settings

_LIVE, _START = Change.LIVE, Change.START

OUTPUTS = ("none", "joint_trajectory", "joint_positions", "twist")
PLAYER_PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec("output", "none", "What the motion is published as: joint_trajectory "
                  "(joint_trajectory_controller), joint_positions (forward_command_controller), "
                  "twist (MoveIt Servo); none publishes nothing.", _START, choices=OUTPUTS),
    ParameterSpec("control_period", 0.05, "Seconds between two commands; that of the chunks.",
                  _START, 0.001, 10.0),
    ParameterSpec("base_frame", "panda_link0", "Link whose axes the actions refer to; chunks of "
                  "another frame are refused.", _START),
    ParameterSpec("tool_frame", "panda_hand_tcp", "Link that the actions move.", _START),
    ParameterSpec("robot_description_file", "", "URDF file; empty for the topic "
                  "robot_description.", _START),
    # --- what a chunk may ask for
    ParameterSpec("max_speed.translation", 1.0, "Chunks with a row that is faster are refused, "
                  "m/s.", _LIVE, 0.0, 10.0),
    ParameterSpec("max_speed.rotation", 3.0, "Chunks with a row that is faster are refused, rad/s.",
                  _LIVE, 0.0, 30.0),
    # --- seams
    ParameterSpec("ensemble.enabled", False, "Average the rows that all chunks have for a time "
                  "(temporal ensembling of ACT)."),
    ParameterSpec("ensemble.decay", 0.01, "Weight exp(-decay * i) of the i-th oldest chunk.",
                  _LIVE, 0.0, 10.0),
    ParameterSpec("fade_steps", 0, "Control periods over which a new chunk is faded in; 0 for at "
                  "once. Not together with ensembling.", _LIVE, 0, 100),
    # --- what stops the motion
    ParameterSpec("status_timeout", 2.0, "Wall seconds without vla_status after which the motion "
                  "is stopped.", _LIVE, 0.6, 3600.0),
    ParameterSpec("joint_states_timeout", 0.5, "Age in seconds on the ROS clock from which joint "
                  "states are stale; joint outputs are stopped then.", _LIVE, 0.01, 60.0),
    ParameterSpec("latch_after", 20, "Commands in a row that the arm cannot follow (joint limit, "
                  "singularity), after which the fault is latched.", _LIVE, 1, 1_000_000),
    # --- joints
    ParameterSpec("joints.margin", 0.02, "Distance kept from the position limits of the URDF, rad "
                  "or m.", _LIVE, 0.0, 1.0),
    ParameterSpec("joints.speed_scale", 1.0, "Share of the URDF's velocity limits that may be "
                  "used.", _LIVE, 0.01, 1.0),
    ParameterSpec("joints.tracking", 0.3, "Largest distance of a joint from where it was sent, rad "
                  "or m; beyond it the fault is latched.", _LIVE, 0.001, 3.2),
    ParameterSpec("joints.damping", 0.02, "Damping of the inverse kinematics near singularities.",
                  _LIVE, 1e-4, 1.0),
    # --- gripper
    ParameterSpec("gripper.open", (0.04, 0.04), "Positions on gripper_positions that open it; "
                  "empty publishes none.", _LIVE, -1e6, 1e6),
    ParameterSpec("gripper.closed", (0.0, 0.0), "Positions on gripper_positions that close it.",
                  _LIVE, -1e6, 1e6),
)


class PlayerSettings(Settings):
    """Settings of chunk_player_node."""

    specs = PLAYER_PARAMETERS

    def check(self) -> None:
        """Raise ConfigurationError where a value, or values together, make no sense."""
        super().check()
        self.blending()
        self.joint_limits()
        if len(self["gripper.open"]) != len(self["gripper.closed"]):
            raise ConfigurationError(
                f"gripper.open has {len(self['gripper.open'])} positions, gripper.closed "
                f"{len(self['gripper.closed'])}; give one per joint of the gripper's controller")

    def blending(self) -> Blending:
        """How chunks are joined."""
        decay = self["ensemble.decay"] if self["ensemble.enabled"] else None
        return Blending(decay, self["fade_steps"])

    def joint_limits(self) -> JointLimits:
        """What joint outputs keep to."""
        return JointLimits(*(self[f"joints.{name}"]
                             for name in ("margin", "speed_scale", "tracking", "damping")))
