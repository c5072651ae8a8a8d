"""A bag that is written while messages come in: MCAP, readable by rosbag2 and Foxglove."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

from ..errors import ConfigurationError, RecordingError
from .definitions import add_definitions, writing_store
from .recorded import NOTE

_VERSION = 8  # of the metadata; the newest that Humble reads, too
_FOREVER = QosTime(9223372036, 854775807)  # as rosbag2 writes "no deadline"
_DEPTH = 10  # discovery does not tell the publisher's


class BagWriter:
    """Makes the folder at the first message. ``close`` it, or it has no index.

    refused: topic -> why its messages are not written. empty: whether none was.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ConfigurationError where the folder exists already."""
        if folder.exists():
            raise ConfigurationError(f"--out {folder} exists already: name a folder that does not")
        self.folder = folder
        self.refused: dict[str, str] = {}
        self.empty = True
        self._writer: Writer | None = None
        self._store = writing_store(())
        self._connections: dict[str, Any] = {}

    def write(self, topic: Any, time_ns: int, raw: bytes) -> bool:
        """Write a message, or return False where its topic is refused.

        topic: name, kind, reliable, latched (ros.bag_recorder.TopicFacts).

        Raises:
            RecordingError: the disk is full, or the folder cannot be made.
        """
        if topic.name in self.refused:
            return False
        try:
            if topic.name not in self._connections and not self._connect(topic):
                return False
            self._writer.write(self._connections[topic.name], time_ns, raw)
        except (OSError, WriterError) as error:
            raise RecordingError(f"bag '{self.folder}' cannot be written: {error}") from error
        self.empty = False
        return True

    def close(self, note: Mapping[str, Any]) -> None:
        """Write index and metadata, with ``note`` under custom_data.

        Raises:
            RecordingError: the disk is full.
        """
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.set_custom_data(NOTE, json.dumps(note, default=str))
        try:
            writer.close()
        except (OSError, WriterError) as error:
            raise RecordingError(
                f"bag '{self.folder}' could not be finished ({error}): make room; `mcap recover` "
                "saves the messages that were written") from error

    def _connect(self, topic: Any) -> bool:
        """Add a topic to the bag; False if its type is not known here."""
        try:
            add_definitions(self._store, [topic.kind])
        except RecordingError as error:
            self.refused[topic.name] = str(error)
            return False
        if self._writer is None:
            writer = Writer(self.folder, version=_VERSION, storage_plugin=StoragePlugin.MCAP)
            writer.open()
            self._writer = writer
        self._connections[topic.name] = self._writer.add_connection(
            topic.name, topic.kind, typestore=self._store,
            offered_qos_profiles=[_qos(topic.reliable, topic.latched)])
        return True


def _qos(reliable: bool, latched: bool) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST, 1 if latched else _DEPTH,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False)
