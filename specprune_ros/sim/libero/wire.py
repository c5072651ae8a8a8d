"""Messages between a simulator in another process and its user: JSON and raw arrays, no pickles.

The two processes may have other versions of Python and NumPy.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ..base import SimObservation

_ARRAYS = ("proprio", "joint_positions", "joint_velocities", "ee_twist")
_IMAGE = "image:"

Arrays = dict[str, np.ndarray]


def send(connection: Connection, fields: Mapping[str, Any],
         arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Send a message: fields that JSON can hold, then the arrays."""
    arrays = {} if arrays is None else arrays
    layout = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    connection.send_bytes(json.dumps({"fields": fields, "arrays": layout}).encode())
    for array in arrays.values():
        connection.send_bytes(np.ascontiguousarray(array).tobytes())


def receive(connection: Connection) -> tuple[dict[str, Any], Arrays]:
    """The next message. EOFError or OSError where the other side is gone."""
    head = json.loads(connection.recv_bytes())
    arrays = {
        name: np.frombuffer(connection.recv_bytes(), dtype).reshape(shape).copy()
        for name, dtype, shape in head["arrays"]
    }
    return head["fields"], arrays


def pack(observation: SimObservation) -> tuple[dict[str, Any], Arrays]:
    """An observation as a message."""
    fields = {"stamp": observation.stamp, "joint_names": list(observation.joint_names)}
    arrays = {name: getattr(observation, name) for name in _ARRAYS}
    arrays |= {_IMAGE + name: image for name, image in observation.images.items()}
    return fields, arrays


def unpack(fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> SimObservation:
    """The observation of a message that :func:`pack` made."""
    images = {name[len(_IMAGE):]: array for name, array in arrays.items()
              if name.startswith(_IMAGE)}
    return SimObservation(
        stamp=fields["stamp"], images=images, joint_names=tuple(fields["joint_names"]),
        **{name: arrays[name] for name in _ARRAYS},
    )
