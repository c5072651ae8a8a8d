"""Which recorded topic feeds which input of vla_node. Names of the node's topics are relative."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..analysis.bag_file import Bag
from ..errors import ConfigurationError, RecordingError

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINTS, STRING = "sensor_msgs/msg/JointState", "std_msgs/msg/String"
CLOCK = "rosgraph_msgs/msg/Clock"
_CAMERA = re.compile(r"(?:^|/)camera/([A-Za-z][A-Za-z0-9_]*)/image_raw(/compressed)?$")
_INPUTS = {"joint_states": JOINTS, "instruction": STRING, "robot_description": STRING}
_OUTPUTS = {name: f"specprune_ros/msg/{kind}" for name, kind in (
    ("action_chunk", "ActionChunk"), ("action_chunk_preview", "ActionChunk"),
    ("prune_stats", "PruneStats"), ("vla_status", "VlaStatus"))}


@dataclass(frozen=True)
class Plan:
    """What is replayed.

    inputs: recorded topic -> the node's topic. kinds: recorded topic -> message type.
    cameras: in token order. compressed: whether they are CompressedImages.
    clock: topic of the recorded clock. outputs: what the node published when the bag was recorded,
    by name (action_chunk, action_chunk_preview, prune_stats, vla_status) -> topic.
    """

    inputs: Mapping[str, str]
    kinds: Mapping[str, str]
    cameras: tuple[str, ...]
    compressed: bool
    clock: str | None
    outputs: Mapping[str, str]

    def __contains__(self, name: str) -> bool:
        """Whether an input of the node is fed."""
        return name in self.inputs.values()


def parse_remaps(texts: Iterable[str]) -> dict[str, str]:
    """``from:=to`` -> {recorded topic: the node's topic}. Raises ConfigurationError."""
    remaps = {}
    for text in texts:
        recorded, mark, target = text.partition(":=")
        if not mark or not recorded.strip("/") or not target.strip("/"):
            raise ConfigurationError(
                f"--remap {text}: write recorded_topic:=input_of_vla_node, for example "
                "/front/image:=camera/primary/image_raw")
        remaps["/" + recorded.strip("/")] = target.strip("/")
    return remaps


def make_plan(bag: Bag, remaps: Mapping[str, str], cameras: Sequence[str] | None = None,
              transport: str | None = None) -> Plan:
    """Find the inputs of vla_node in a bag: by ``remaps``, the others by their names.

    cameras: those that are wanted; None for ``primary`` and whatever has ``wrist`` in its name.
    transport: ``raw`` or ``compressed`` where both were recorded; None prefers raw.

    Raises:
        ConfigurationError: a remap that fits nothing.
        RecordingError: what is needed was not recorded, or more than one topic could be meant.
    """
    kinds = bag.kinds
    found = _remapped(bag, remaps)
    taken = set(found.values())
    for topic, target in _by_name(kinds, set(found)):
        if target not in taken:
            found[topic] = target
    joints = bag.topics_of(JOINTS)
    if "joint_states" not in found.values() and len(joints) == 1 and joints[0] not in found:
        found[joints[0]] = "joint_states"
    _check_unambiguous(bag, found)
    names, compressed = _cameras(bag, found, cameras, transport)
    suffix = "/compressed" if compressed else ""
    wanted = {*_INPUTS, *(f"camera/{name}/image_raw{suffix}" for name in names)}
    return Plan(
        inputs={topic: target for topic, target in found.items() if target in wanted},
        kinds=kinds, cameras=names, compressed=compressed,
        clock=next((topic for topic in bag.topics_of(CLOCK)), None),
        outputs=_outputs(kinds))


def _remapped(bag: Bag, remaps: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for topic, target in remaps.items():
        kind = bag.kinds.get(topic)
        if kind is None:
            raise ConfigurationError(f"--remap {topic}:={target}: the bag has no such topic; it "
                                     f"has {', '.join(bag.kinds) or 'none'}")
        if _CAMERA.search(target):
            target = target.removesuffix("/compressed")
            allowed = (IMAGE, COMPRESSED)
            target += "/compressed" if kind == COMPRESSED else ""
        elif target in _INPUTS:
            allowed = (_INPUTS[target],)
        else:
            raise ConfigurationError(
                f"--remap {topic}:={target}: vla_node has no such input; it reads "
                f"camera/NAME/image_raw, {', '.join(_INPUTS)}")
        if kind not in allowed:
            raise ConfigurationError(f"--remap {topic}:={target}: the topic was recorded as "
                                     f"{kind}, the node reads {' or '.join(allowed)}")
        found[topic] = target
    return found


def _by_name(kinds: Mapping[str, str], remapped: set[str]) -> Iterable[tuple[str, str]]:
    """(topic, the node's topic) for recorded topics that end as the node's do."""
    for topic, kind in kinds.items():
        camera = _CAMERA.search(topic)
        if topic in remapped:
            continue
        if camera and kind == (COMPRESSED if camera[2] else IMAGE):
            yield topic, camera[0].strip("/")
        for name, expected in _INPUTS.items():
            if kind == expected and topic.rsplit("/", 1)[-1] == name:
                yield topic, name


def _check_unambiguous(bag: Bag, found: Mapping[str, str]) -> None:
    for target in sorted(set(found.values())):
        topics = [topic for topic, name in found.items() if name == target]
        if len(topics) > 1:
            raise RecordingError(
                f"bag '{bag.path}': {' and '.join(topics)} could each be {target}: choose with "
                f"--remap {topics[0]}:={target}")


def _cameras(bag: Bag, found: Mapping[str, str], wanted: Sequence[str] | None,
             transport: str | None) -> tuple[tuple[str, ...], bool]:
    """Cameras in token order, and whether they are compressed."""
    recorded: dict[bool, list[str]] = {False: [], True: []}
    for target in found.values():
        if match := _CAMERA.search(target):
            recorded[bool(match[2])].append(match[1])
    present = sorted({*recorded[False], *recorded[True]})
    names = tuple(wanted) if wanted is not None else (
        "primary", *(name for name in present if "wrist" in name))
    missing = [name for name in names if name not in present]
    if missing:
        images = ", ".join(bag.topics_of(IMAGE, COMPRESSED)) or "no topic"
        raise RecordingError(
            f"bag '{bag.path}' has no camera {', '.join(missing)}: name its topic, --remap "
            f"TOPIC:=camera/{missing[0]}/image_raw; images are on {images}. Or replay fewer "
            "cameras, --param 'cameras:=[primary]', if the checkpoint was trained with fewer")
    order = (True, False) if transport == "compressed" else (False, True)
    for compressed in order:
        if all(name in recorded[compressed] for name in names):
            return names, compressed
    raise RecordingError(
        f"bag '{bag.path}' has {', '.join(recorded[False]) or 'no camera'} as images and "
        f"{', '.join(recorded[True]) or 'no camera'} as compressed images; vla_node reads all "
        "cameras as one or the other. Replay fewer cameras, --param 'cameras:=[...]'")


def _outputs(kinds: Mapping[str, str]) -> dict[str, str]:
    """The recorded outputs of one vla_node; none if there are several."""
    outputs: dict[str, str] = {}
    for name, kind in _OUTPUTS.items():
        topics = [t for t, k in kinds.items() if k == kind and t.rsplit("/", 1)[-1] == name]
        if len(topics) > 1:
            return {}
        outputs.update(dict.fromkeys([name], topics[0]) if topics else {})
    return outputs
