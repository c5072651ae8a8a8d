"""Bags for tests: the recorded one, changed, and small ones made up message by message."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from specprune_ros.replay.definitions import standard_store
from specprune_ros.replay.recorded import open_bag

#: The first seconds of a simulated episode; make_tabletop_bag.sh beside it recorded it.
BAG = Path(__file__).resolve().parents[1] / "data" / "tabletop_bag"
STORE = standard_store()
TYPES = STORE.types
NANO = 1_000_000_000
OUTPUTS = ("/action_chunk", "/prune_stats", "/vla_status", "/sim_status")


def rewrite(path, storage=StoragePlugin.MCAP, rename=None, drop=(), until=None, version=8,
            source=BAG):
    """A copy of a bag, as another recorder had written it: no notes, other topics or storage.

    until: number of messages.
    """
    rename = rename or {}
    with open_bag(source) as bag, Writer(path, version=version, storage_plugin=storage) as writer:
        kinds = {topic: kind for topic, kind in bag.kinds.items() if topic not in drop}
        own = {c.topic: c for c in bag._reader.connections}  # definitions as they were recorded
        connections = {topic: writer.add_connection(
            rename.get(topic, topic), kind, msgdef=own[topic].msgdef.data,
            rihs01=own[topic].digest) for topic, kind in kinds.items()}
        for number, (topic, time, raw) in enumerate(bag.raw(kinds)):
            if number == until:
                break
            writer.write(connections[topic], time, raw)
    return path


def write(path, messages, storage=StoragePlugin.MCAP, topics=()):
    """messages: (topic, time of recording in s, message). topics: (name, type) without messages."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        connections = {}
        for topic, kind in topics:
            connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
        for topic, seconds, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], round(seconds * NANO),
                         STORE.serialize_cdr(message, kind))
    return path


def stamp(seconds):
    nanoseconds = round(seconds * NANO)
    return TYPES["builtin_interfaces/msg/Time"](sec=nanoseconds // NANO,
                                                nanosec=nanoseconds % NANO)


def header(seconds):
    return TYPES["std_msgs/msg/Header"](stamp=stamp(seconds), frame_id="")


def text(value):
    return TYPES["std_msgs/msg/String"](data=value)


def clock(seconds):
    return TYPES["rosgraph_msgs/msg/Clock"](clock=stamp(seconds))


def image(seconds, value=0, side=16):
    data = np.full(side * side * 3, value, np.uint8)
    data[0] = value ^ 128  # vla_node takes a picture of one colour for that of a covered lens
    return TYPES["sensor_msgs/msg/Image"](
        header=header(seconds), height=side, width=side, encoding="rgb8", is_bigendian=0,
        step=3 * side, data=data)


def compressed(seconds):
    return TYPES["sensor_msgs/msg/CompressedImage"](header=header(seconds), format="jpeg",
                                                    data=np.zeros(4, np.uint8))


def joints(seconds, names=("slide", "turn", "panda_finger_joint1", "panda_finger_joint2")):
    return TYPES["sensor_msgs/msg/JointState"](
        header=header(seconds), name=list(names), position=np.linspace(0.0, 0.1, len(names)),
        velocity=np.zeros(len(names)), effort=np.zeros(0))


def status(seconds, episode, instruction, images=0, chunks=0):
    empty = np.zeros(0)
    return TYPES["specprune_ros/msg/VlaStatus"](
        header=header(seconds), state=3, fault_code=0, fault_text="", latched=False, dry_run=False,
        instruction=instruction, episode=episode, parameter_revision=0, queries=chunks,
        chunks=chunks, faults=0, images_received=images, joint_states_received=0, unsynchronised=0,
        rejected=0, last_rejection="", failures=0, dense_fallbacks=0, holds=0, inputs=[],
        input_ages=empty)
