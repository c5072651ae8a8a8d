"""``specprune bag-to-npz``: episodes of a ROS 2 bag as recordings at control rate."""
from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from specprune_ros.analysis.bag import (
    JointSample,
    Segment,
    find_topics,
    read_pictures,
    read_segments,
)
from specprune_ros.analysis.bag_file import Bag
from specprune_ros.analysis.output import say_written
from specprune_ros.analysis.recording import Recording
from specprune_ros.analysis.writing import check_output_file, check_output_folder
from specprune_ros.errors import ConfigurationError, JointStateError, RecordingError

_log = logging.getLogger(__name__)
_NANO = 1_000_000_000


@dataclass(frozen=True)
class ArmOptions:
    """How velocity and proprio follow from joint states; urdf None: from the bag."""

    base_frame: str
    tool_frame: str
    urdf: str | None
    gripper_joints: tuple[str, ...]
    gripper_scale: tuple[float, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, metavar="BAG",
                        help="folder of a ROS 2 bag, or an .mcap or .db3 file")
    parser.add_argument("out", type=Path, metavar="OUT",
                        help="folder for the recordings; or an .npz file, for one episode")
    parser.add_argument("--camera", action="append", default=[], metavar="NAME=TOPIC",
                        help="camera, once for each; without any: camera/<NAME>/image_raw")
    parser.add_argument("--joint-states", metavar="TOPIC", help="without it: the only JointState")
    parser.add_argument("--instruction-topic", metavar="TOPIC",
                        help="without it: the String topic called instruction")
    parser.add_argument("--instruction", metavar="TEXT", help="task, where no topic tells it")
    parser.add_argument("--control-period", type=float, default=0.05, metavar="S",
                        help="seconds between two frames of the recordings")
    parser.add_argument("--max-gap", type=float, default=0.5, metavar="S",
                        help="a longer pause between pictures ends an episode")
    parser.add_argument("--min-steps", type=int, default=2, metavar="N",
                        help="shorter episodes are left out")
    parser.add_argument("--size", type=int, metavar="PX",
                        help="resize the pictures to squares (needed where cameras differ)")
    arm = parser.add_argument_group("arm", "velocity and proprio from the joint states")
    arm.add_argument("--tool-frame", metavar="LINK", help="without it: neither is recorded")
    arm.add_argument("--base-frame", default="base_link", metavar="LINK", help="base of the arm")
    arm.add_argument("--urdf", type=Path, metavar="FILE",
                     help="without it: the bag's robot_description")
    arm.add_argument("--gripper-joints", nargs="*", metavar="JOINT",
                     default=["panda_finger_joint1", "panda_finger_joint2"],
                     help="joints at the end of the proprio vector")
    arm.add_argument("--gripper-scale", nargs="*", type=float, default=[1.0, -1.0],
                     metavar="FACTOR", help="factor on each of them")


def run(args: argparse.Namespace) -> int:
    for name in ("control_period", "max_gap"):
        if not getattr(args, name) > 0:
            raise ConfigurationError(f"--{name.replace('_', '-')} must be > 0 s")
    single = args.out.suffix == ".npz"
    (check_output_file if single else check_output_folder)(args.out)
    arm = None
    if args.tool_frame:
        urdf = args.urdf.read_text() if args.urdf else None
        arm = ArmOptions(args.base_frame, args.tool_frame, urdf, tuple(args.gripper_joints),
                         tuple(args.gripper_scale))
    cameras = dict(_camera(text) for text in args.camera)
    recordings = convert(
        args.bag, cameras, args.joint_states, args.instruction_topic, args.instruction,
        args.control_period, args.max_gap, args.min_steps, args.size, arm,
    )
    if single and len(recordings) > 1:
        raise RecordingError(f"bag '{args.bag}' holds {len(recordings)} episodes: name a folder "
                             f"instead of {args.out}")
    say_written([
        recording.save(args.out if single else args.out / f"{args.bag.stem}_{number:05d}.npz")
        for number, recording in enumerate(recordings)
    ])
    return 0


def _camera(text: str) -> tuple[str, str]:
    name, equals, topic = text.partition("=")
    if not (name and equals and topic):
        raise ConfigurationError(f"--camera {text!r}: write NAME=TOPIC, as in "
                                 "primary=/camera/primary/image_raw")
    return name, topic


def convert(
    path: Path,
    cameras: dict[str, str],
    joint_states: str | None = None,
    instruction_topic: str | None = None,
    instruction: str | None = None,
    control_period: float = 0.05,
    max_gap: float = 0.5,
    min_steps: int = 2,
    size: int | None = None,
    arm: ArmOptions | None = None,
) -> list[Recording]:
    """The episodes of a bag. Frames, and joint states, are those nearest to each control period;
    stamps count from the first one. Raises RecordingError or JointStateError."""
    with Bag(path) as bag:
        topics = find_topics(bag, cameras, joint_states, instruction_topic)
        segments, description = read_segments(bag, topics, max_gap)
        grids = [_grid(segment, control_period) for segment in segments]
        long_enough = [len(grid) >= min_steps for grid in grids]
        if not all(long_enough):
            _log.warning("%d stretches of fewer than %d steps are left out",
                         long_enough.count(False), min_steps)
        chosen = [(s, g) for s, g, ok in zip(segments, grids, long_enough) if ok]
        if not chosen:
            raise RecordingError(
                f"bag '{path}' holds no episode of {min_steps} steps in which every camera "
                f"({', '.join(topics.cameras)}) has pictures"
            )
        frames = _Frames(bag, topics, chosen, size)
    if arm is not None and arm.urdf is None:
        if description is None:
            raise RecordingError(f"bag '{path}' has no robot_description: give --urdf FILE")
        arm = ArmOptions(arm.base_frame, arm.tool_frame, description, arm.gripper_joints,
                         arm.gripper_scale)
    recordings = []
    for number, (segment, grid) in enumerate(chosen):
        text = instruction or segment.instruction
        if not text:
            raise RecordingError(
                f"bag '{path}': no instruction was recorded before the pictures of episode "
                f"{number}: give --instruction TEXT"
            )
        recordings.append(Recording(
            cameras=tuple(topics.cameras),
            frames=frames.of(segment, grid),
            stamps=(grid - grid[0]) / _NANO,
            instruction=text,
            control_period=control_period,
            source=f"bag {Path(path).name}",
            **_joint_arrays(segment.joints, grid),
            **_arm_arrays(segment.joints, grid, arm),
        ))
    return recordings


def _grid(segment: Segment, control_period: float) -> np.ndarray:
    """int64 [T]: stamps (ns) of the control periods that every camera covers."""
    start = max(images[0][0] for images in segment.images.values())
    end = min(images[-1][0] for images in segment.images.values())
    period = round(control_period * _NANO)
    # Half a period of grace, so that jitter of the last picture costs no step.
    return start + period * np.arange(max(0, (end - start + period // 2) // period + 1))


def _nearest(stamps: Sequence[int], grid: np.ndarray) -> np.ndarray:
    """Index of the stamp nearest to each time of the grid; stamps ascend."""
    known = np.asarray(stamps, np.int64)
    right = np.clip(np.searchsorted(known, grid), 1, max(1, len(known) - 1))
    left = right - 1
    right = np.minimum(right, len(known) - 1)
    return np.where(grid - known[left] <= known[right] - grid, left, right)


class _Frames:
    """The pictures that some grids need, decoded once."""

    def __init__(self, bag, topics, chosen, size: int | None) -> None:
        wanted: dict[str, set[int]] = defaultdict(set)
        for segment, grid in chosen:
            for name in topics.cameras:
                wanted[name] |= set(_numbers(segment, name, grid))
        self._pictures: dict[tuple[str, int], np.ndarray] = {}
        self._size = size
        read_pictures(bag, topics, wanted, self._keep)

    def _keep(self, name: str, number: int, image: np.ndarray) -> None:
        if self._size is not None and image.shape[:2] != (self._size, self._size):
            image = cv2.resize(np.ascontiguousarray(image), (self._size, self._size),
                               interpolation=cv2.INTER_AREA)
        self._pictures[name, number] = image

    def of(self, segment: Segment, grid: np.ndarray) -> np.ndarray:
        """uint8 [T, n_cam, H, W, 3]."""
        numbers = {name: _numbers(segment, name, grid) for name in segment.images}
        sizes = {name: self._pictures[name, column[0]].shape[:2]
                 for name, column in numbers.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {h}x{w}" for name, (h, w) in sizes.items())
            raise RecordingError(f"the cameras differ in size ({listed}): give --size PX")
        return np.stack([
            [self._pictures[name, column[step]] for name, column in numbers.items()]
            for step in range(len(grid))
        ])


def _numbers(segment: Segment, name: str, grid: np.ndarray) -> list[int]:
    images = segment.images[name]
    return [images[i][1] for i in _nearest([stamp for stamp, _ in images], grid)]


def _joint_arrays(joints: Sequence[JointSample], grid: np.ndarray) -> dict:
    """Arrays of Recording at the control periods; empty without joint states."""
    if not joints:
        return {}
    nearest = [joints[i] for i in _nearest([sample.stamp for sample in joints], grid)]
    names = nearest[0].names
    different = next((sample.names for sample in nearest if sample.names != names), None)
    if different is not None:
        raise JointStateError(
            f"joint states name {', '.join(names)} first and {', '.join(different)} later: record "
            "one publisher, or name its topic with --joint-states"
        )
    found = {"joint_names": names,
             "joint_positions": np.stack([sample.positions for sample in nearest])}
    if all(sample.velocities is not None for sample in nearest):
        found["joint_velocities"] = np.stack([sample.velocities for sample in nearest])
    return found


def _arm_arrays(
    joints: Sequence[JointSample], grid: np.ndarray, arm: ArmOptions | None
) -> dict:
    """Velocity (low-pass filtered as vla_node does) and proprio at the control periods."""
    if arm is None:
        return {}
    if not joints:
        raise JointStateError("no joint states were recorded: leave --tool-frame out, or record "
                              "them")
    from specprune_ros.robot.kinematics import ArmKinematics
    from specprune_ros.robot.proprio import ProprioSpec, proprio_vector
    from specprune_ros.robot.velocity import TwistEstimator

    kinematics = ArmKinematics.from_urdf(arm.urdf, arm.base_frame, arm.tool_frame)
    zeros = (0.0,) * len(arm.gripper_joints)
    spec = ProprioSpec(arm.gripper_joints, arm.gripper_scale, zeros)
    estimator = TwistEstimator(kinematics)
    samples = [
        estimator.update(j.stamp / _NANO, j.names, j.positions, j.velocities) for j in joints
    ]
    nearest = [samples[i] for i in _nearest([sample.stamp for sample in joints], grid)]
    proprio = np.stack([proprio_vector(s.pose, s.positions, spec) for s in nearest])
    # The first sample of a stream without measured velocities knows none.
    twists = np.stack([np.zeros(6) if s.twist is None else s.twist for s in nearest])
    return {"proprio": proprio, "ee_twists": twists}
