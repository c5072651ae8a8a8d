"""What is in a bag: its topics, its episodes, its pictures. Without a ROS."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from specprune_ros.analysis.bag_file import Bag
from specprune_ros.errors import ImageError, RecordingError

_NANO = 1_000_000_000
_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_JOINTS, _STRING = "sensor_msgs/msg/JointState", "std_msgs/msg/String"
_CAMERA_TOPIC = re.compile(r"(?:^|/)camera/([^/]+)/image_raw(?:/compressed)?$")
#: encoding -> (channels, order of the channels that gives RGB)
_ENCODINGS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC3": (3, (2, 1, 0)),  # OpenCV's order
    "8UC1": (1, (0, 0, 0)),
}


@dataclass(frozen=True)
class Topics:
    """Where things are in a bag. cameras: name -> topic, in token order."""

    cameras: Mapping[str, str]
    joint_states: str | None
    instruction: str | None
    robot_description: str | None


@dataclass(frozen=True)
class JointSample:
    """One JointState; stamp in ns, velocities None where the message has none."""

    stamp: int
    names: tuple[str, ...]
    positions: np.ndarray
    velocities: np.ndarray | None


@dataclass
class Segment:
    """A stretch of one instruction without a gap. images: camera -> [(stamp in ns, number of the
    message on its topic)]."""

    instruction: str | None
    images: dict[str, list[tuple[int, int]]]
    joints: list[JointSample] = field(default_factory=list)
    newest_image: int | None = None
    newest_joints: int | None = None

    @property
    def complete(self) -> bool:
        """Whether every camera has seen something."""
        return all(self.images.values())


def find_topics(
    bag: Bag,
    cameras: Mapping[str, str],
    joint_states: str | None = None,
    instruction: str | None = None,
) -> Topics:
    """What was asked for, or what is there: ``camera/<name>/image_raw``, the only JointState, the
    ``instruction`` and the ``robot_description``. Raises RecordingError naming what is there."""
    images = bag.topics_of(_IMAGE, _COMPRESSED)
    if cameras:
        missing = [topic for topic in cameras.values() if topic not in images]
        if missing:
            raise RecordingError(
                f"bag '{bag.path}' has no images on {', '.join(missing)}; on: "
                f"{', '.join(images) or 'no topic'}"
            )
    else:
        matches = {topic: _CAMERA_TOPIC.search(topic) for topic in images}
        cameras = {match.group(1): topic for topic, match in matches.items() if match}
    if "primary" not in cameras:
        raise RecordingError(
            f"bag '{bag.path}': no camera 'primary' among {', '.join(cameras) or 'none'}; name the "
            f"cameras, --camera primary=TOPIC; images are on: {', '.join(images) or 'no topic'}"
        )
    ordered = {"primary": cameras["primary"], **cameras}
    strings = bag.topics_of(_STRING)
    return Topics(
        ordered,
        _one(bag, "JointState", bag.topics_of(_JOINTS), joint_states, "--joint-states"),
        _one(bag, "instruction", [t for t in strings if t.endswith("instruction")], instruction,
             "--instruction-topic", strings),
        _one(bag, "robot_description",
             [t for t in strings if t.endswith("robot_description")], None, "--urdf"),
    )


def _one(
    bag: Bag, what: str, found: list[str], wanted: str | None, option: str,
    allowed: list[str] | None = None,
) -> str | None:
    if wanted is not None:
        if wanted not in (found if allowed is None else allowed):
            raise RecordingError(f"bag '{bag.path}' has no {what} on {wanted}; on: "
                                 f"{', '.join(allowed or found) or 'no topic'}")
        return wanted
    if len(found) > 1:
        raise RecordingError(
            f"bag '{bag.path}' has {what} on {', '.join(found)}: choose one with {option}"
        )
    return found[0] if found else None


def read_segments(bag: Bag, topics: Topics, max_gap: float) -> tuple[list[Segment], str | None]:
    """Stamps of all pictures, and all joint states, cut into episodes; and the robot description.

    A new segment begins where the text of the instruction changes (the first one counts for what
    came before it, too), and where the stamps of pictures or joint states jump back or forward by
    more than ``max_gap`` seconds.
    """
    names = {topic: name for name, topic in topics.cameras.items()}
    others = {topics.joint_states, topics.instruction, topics.robot_description} - {None}
    gap = round(max_gap * _NANO)
    counts = dict.fromkeys(names.values(), 0)
    segments = [Segment(None, {name: [] for name in topics.cameras})]
    description = None

    def at(stamp: int, newest: int | None) -> Segment:
        """The segment that this stamp belongs to."""
        if newest is not None and abs(stamp - newest) > gap:
            begin(segments[-1].instruction)
        return segments[-1]

    def begin(instruction: str | None) -> None:
        segments.append(Segment(instruction, {name: [] for name in topics.cameras}))

    for topic, time, message in bag.messages(set(names) | others):
        current = segments[-1]
        if topic == topics.instruction:
            if current.instruction is None:
                current.instruction = message.data
            elif message.data != current.instruction:
                begin(message.data)
        elif topic == topics.robot_description:
            description = message.data
        elif topic == topics.joint_states:
            stamp = _stamp(message, time)
            current = at(stamp, current.newest_joints)
            current.newest_joints = max(stamp, current.newest_joints or stamp)
            current.joints.append(_joint_sample(message, stamp))
        else:
            name, stamp = names[topic], _stamp(message, time)
            current = at(stamp, current.newest_image)
            current.newest_image = max(stamp, current.newest_image or stamp)
            current.images[name].append((stamp, counts[name]))
            counts[name] += 1
    for segment in segments:
        for images in segment.images.values():
            images.sort()
        segment.joints.sort(key=lambda sample: sample.stamp)
    return [segment for segment in segments if segment.complete], description


def read_pictures(
    bag: Bag, topics: Topics, wanted: Mapping[str, set[int]],
    keep: Callable[[str, int, np.ndarray], None],
) -> None:
    """Decode the pictures of these numbers and hand them on: camera, number, uint8 [H, W, 3]."""
    names = {topic: name for name, topic in topics.cameras.items()}
    counts = dict.fromkeys(names.values(), 0)
    for topic, _, message in bag.messages(set(names)):
        name = names[topic]
        number, counts[name] = counts[name], counts[name] + 1
        if number in wanted[name]:
            try:
                keep(name, number, picture(message))
            except ImageError as error:
                raise RecordingError(f"bag '{bag.path}', {topic}, message {number}: {error}") from (
                    error)


def picture(message: Any) -> np.ndarray:
    """uint8 [H, W, 3], RGB, of an Image or CompressedImage. Raises ImageError."""
    if hasattr(message, "format"):
        decoded = cv2.imdecode(np.asarray(message.data, np.uint8),
                               cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if decoded is None:
            raise ImageError(f"{len(message.data)} bytes of format {message.format!r} are no "
                             "picture that OpenCV can decode")
        return np.ascontiguousarray(decoded[:, :, ::-1])
    if message.encoding not in _ENCODINGS:
        raise ImageError(
            f"encoding {message.encoding!r} is not one of {', '.join(_ENCODINGS)}: convert the "
            "topic before recording"
        )
    channels, order = _ENCODINGS[message.encoding]
    data = np.asarray(message.data, np.uint8)
    row = message.width * channels
    if message.step < row or len(data) != message.step * message.height or not len(data):
        raise ImageError(
            f"{message.width}x{message.height} {message.encoding} with step {message.step} and "
            f"{len(data)} bytes of data: the fields do not agree"
        )
    pixels = data.reshape(message.height, message.step)[:, :row]
    return pixels.reshape(message.height, message.width, channels)[:, :, list(order)]


def _stamp(message: Any, time: int) -> int:
    """Stamp of the header in ns; a header that was never stamped has the time of recording."""
    stamp = message.header.stamp
    return stamp.sec * _NANO + stamp.nanosec or time


def _joint_sample(message: Any, stamp: int) -> JointSample:
    velocities = np.array(message.velocity, np.float64)
    return JointSample(
        stamp,
        tuple(message.name),
        np.array(message.position, np.float64),
        velocities if len(velocities) else None,
    )
