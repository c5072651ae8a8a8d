"""Pose and velocity of a tool frame from joint states and a URDF (pinocchio)."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import pinocchio as pin

from ..errors import ConfigurationError, JointStateError
from .rotations import matrix_to_quaternion


@dataclass(frozen=True)
class Pose:
    """Pose of one frame in another: position [3] in metres, quaternion_xyzw [4] of norm 1."""

    position: np.ndarray
    quaternion_xyzw: np.ndarray


class ArmKinematics:
    """Kinematics of the chain between two links of a robot.

    Only the joints between ``base_frame`` and ``tool_frame`` are needed; the rest of the robot
    (fingers, other arms) may be missing from the joint states. Any link may be the base. Not
    thread-safe: each call overwrites one workspace.
    """

    def __init__(self, model: pin.Model, base_frame: str, tool_frame: str) -> None:
        """Take :meth:`from_urdf` unless a pinocchio model is at hand already."""
        links = [frame.name for frame in model.frames if frame.type == pin.FrameType.BODY]
        for role, name in (("base_frame", base_frame), ("tool_frame", tool_frame)):
            if name not in links:
                raise ConfigurationError(
                    f"{role} {name!r} is no link of the robot description; "
                    f"its links: {', '.join(links)}"
                )
        supports = [
            set(model.supports[model.frames[model.getFrameId(name, pin.BODY)].parentJoint])
            for name in (base_frame, tool_frame)
        ]
        chain = sorted(supports[0] ^ supports[1])  # joints above both cancel out
        for joint in chain:
            if model.nvs[joint] != 1:
                raise ConfigurationError(
                    f"joint {model.names[joint]!r} between {base_frame!r} and {tool_frame!r} has "
                    f"{model.nvs[joint]} degrees of freedom; JointState can carry only one. "
                    "Choose frames with revolute, continuous or prismatic joints between them"
                )
        names = [model.names[joint] for joint in chain]
        locked = [joint for joint in range(1, model.njoints) if joint not in chain]
        self._model = pin.buildReducedModel(model, locked, pin.neutral(model))
        self._data = self._model.createData()
        self._base = self._model.getFrameId(base_frame, pin.BODY)
        self._tool = self._model.getFrameId(tool_frame, pin.BODY)
        self._joint_names = tuple(names)
        joints = [self._model.getJointId(name) for name in names]
        self._q_index = [int(self._model.idx_qs[joint]) for joint in joints]
        self._v_index = [int(self._model.idx_vs[joint]) for joint in joints]
        # pinocchio keeps an unlimited (continuous) joint as cosine and sine
        self._circular = np.array([self._model.nqs[joint] == 2 for joint in joints], dtype=bool)
        self._q = pin.neutral(self._model)
        self._v = np.zeros(self._model.nv)
        self.base_frame = base_frame
        self.tool_frame = tool_frame

    @classmethod
    def from_urdf(cls, xml: str, base_frame: str, tool_frame: str) -> ArmKinematics:
        """Kinematics of a URDF document.

        Raises ConfigurationError if it is not a URDF, if a frame is unknown (the message lists
        the links), or if a joint between the two has more than one degree of freedom.
        """
        try:
            root = ElementTree.fromstring(xml)
        except ElementTree.ParseError as error:
            raise ConfigurationError(
                f"robot description is not well-formed XML: {error}. "
                "Expand xacro files first (ros2 run xacro xacro FILE)"
            ) from error
        if root.tag != "robot":
            raise ConfigurationError(
                f"robot description: root element is <{root.tag}>, expected <robot> (URDF)"
            )
        try:
            model = pin.buildModelFromXML(xml)
        except (ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"robot description is no valid URDF: {error} "
                "The parser's complaint is on standard error; check_urdf FILE repeats it"
            ) from error
        return cls(model, base_frame, tool_frame)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The movable joints between base and tool, from the root of the robot outwards."""
        return self._joint_names

    @property
    def rotary_joint_names(self) -> tuple[str, ...]:
        """Those of :attr:`joint_names` that turn, whose positions are in rad."""
        def turns(name: str) -> bool:
            joint = self._model.joints[self._model.getJointId(name)]
            return joint.shortname().startswith("JointModelR")

        return tuple(filter(turns, self._joint_names))

    def select(self, values: Mapping[str, float], what: str = "position") -> np.ndarray:
        """Values of :attr:`joint_names` as an array [n].

        Raises JointStateError naming the joints that are missing, NaN or infinite.
        """
        missing = [name for name in self._joint_names if name not in values]
        if missing:
            raise JointStateError(
                f"joint states lack the {what} of {', '.join(missing)}; the chain from "
                f"{self.base_frame} to {self.tool_frame} needs {', '.join(self._joint_names)}"
            )
        selected = [float(values[name]) for name in self._joint_names]
        wrong = [
            f"{name} = {value}"
            for name, value in zip(self._joint_names, selected)
            if not math.isfinite(value)
        ]
        if wrong:
            raise JointStateError(f"joint {what} is not finite: {', '.join(wrong)}")
        return np.array(selected)

    def displacement(self, before: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Way [n] from one :meth:`select` of positions to another, the short way round for
        continuous joints, whose positions may be reported modulo a turn."""
        way = now - before
        way[self._circular] = np.remainder(way[self._circular] + math.pi, 2 * math.pi) - math.pi
        return way

    @property
    def position_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limit [n] of each joint, rad or m; infinite for continuous joints."""
        lower = self._model.lowerPositionLimit[self._q_index].copy()
        upper = self._model.upperPositionLimit[self._q_index].copy()
        lower[self._circular], upper[self._circular] = -math.inf, math.inf
        return lower, upper

    @property
    def velocity_limits(self) -> np.ndarray:
        """Largest speed [n] of each joint, rad/s or m/s; infinite where the URDF has none."""
        limits = self._model.velocityLimit[self._v_index].copy()
        limits[limits <= 0] = math.inf
        return limits

    def tool_pose(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] (m) and rotation matrix [3, 3] of the tool in the base; positions [n]."""
        self._set_positions(positions)
        pin.forwardKinematics(self._model, self._data, self._q)
        tool = self._tool_in_base()
        return tool.translation.copy(), tool.rotation.copy()

    def jacobian(self, positions: np.ndarray) -> np.ndarray:
        """[6, n]: twist of the tool relative to the base, in the axes of the base (m/s, rad/s), per
        joint velocity. positions: [n], in the order of :attr:`joint_names`."""
        self._set_positions(positions)
        pin.computeJointJacobians(self._model, self._data, self._q)
        tool = self._tool_in_base()
        local = pin.ReferenceFrame.LOCAL
        of_tool = pin.getFrameJacobian(self._model, self._data, self._tool, local)
        of_base = pin.getFrameJacobian(self._model, self._data, self._base, local)
        relative = (of_tool - tool.toActionMatrixInverse() @ of_base)[:, self._v_index]
        return np.vstack([tool.rotation @ relative[:3], tool.rotation @ relative[3:]])

    def _set_positions(self, positions: Sequence[float]) -> None:
        for index, circular, value in zip(self._q_index, self._circular, positions):
            if circular:
                self._q[index], self._q[index + 1] = math.cos(value), math.sin(value)
            else:
                self._q[index] = value

    def _tool_in_base(self) -> pin.SE3:
        pin.updateFramePlacement(self._model, self._data, self._base)
        pin.updateFramePlacement(self._model, self._data, self._tool)
        return self._data.oMf[self._base].actInv(self._data.oMf[self._tool])

    def pose(self, positions: Mapping[str, float]) -> Pose:
        """Pose of the tool in the base frame; positions in rad or m by joint name.

        Raises JointStateError for joints that are missing or not finite.
        """
        self._set_positions(self.select(positions))
        pin.forwardKinematics(self._model, self._data, self._q)
        tool = self._tool_in_base()
        return Pose(tool.translation.copy(), matrix_to_quaternion(tool.rotation))

    def twist(
        self, positions: Mapping[str, float], velocities: Mapping[str, float]
    ) -> np.ndarray:
        """Velocity of the tool relative to the base, in the axes of the base frame.

        Returns [6]: linear velocity of the tool's origin (m/s), then angular (rad/s). Raises
        JointStateError for joints that are missing or not finite.
        """
        self._set_positions(self.select(positions))
        self._v[self._v_index] = self.select(velocities, "velocity")
        pin.forwardKinematics(self._model, self._data, self._q, self._v)
        tool = self._tool_in_base()
        local = pin.ReferenceFrame.LOCAL
        base_motion = pin.getFrameVelocity(self._model, self._data, self._base, local)
        tool_motion = pin.getFrameVelocity(self._model, self._data, self._tool, local)
        relative = tool_motion - tool.actInv(base_motion)  # both in the axes of the tool
        return np.concatenate([tool.rotation @ relative.linear, tool.rotation @ relative.angular])
