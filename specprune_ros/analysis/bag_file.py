"""ROS 2 bags (MCAP or SQLite) as streams of messages, without a ROS."""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from specprune_ros.errors import RecordingError


class Bag:
    """A bag that can be read several times. Use it as a context.

    typestore: definitions for a bag that holds none itself (distributions before Iron); by default
    those of the standard messages, which are the same in all distributions.

    Raises RecordingError if it is no bag, or damaged.
    """

    def __init__(self, path: str | Path, typestore: Typestore | None = None) -> None:
        self.path = Path(path)
        typestore = typestore or get_typestore(Stores.LATEST)
        try:
            self._reader = AnyReader([self.path], default_typestore=typestore)
        except FileNotFoundError:
            raise RecordingError(
                f"bag '{self.path}' does not exist, or is a folder without metadata.yaml "
                "(`ros2 bag reindex` writes it anew)"
            ) from None
        except (AnyReaderError, OSError, ValueError) as error:
            raise RecordingError(f"'{self.path}' is no ROS 2 bag: {error}") from error
        if not self._reader.is2:
            raise RecordingError(f"'{self.path}' is a bag of ROS 1: convert it, "
                                 f"`rosbags-convert --src {self.path} --dst FOLDER`")

    def __enter__(self) -> Bag:
        try:
            self._reader.open()
        except Exception as error:  # damaged files end up as anything in the parsers below
            raise RecordingError(
                f"bag '{self.path}' cannot be read ({_named(error)}); if its "
                "recording was cut off, `ros2 bag reindex` or `mcap recover` may mend it"
            ) from error
        return self

    def __exit__(self, *exception: Any) -> None:
        self._reader.close()

    @property
    def kinds(self) -> dict[str, str]:
        """Topic -> message type, in order of the topics' names."""
        return {c.topic: c.msgtype for c in sorted(self._reader.connections,
                                                   key=lambda c: c.topic)}

    @property
    def notes(self) -> Mapping[str, str]:
        """What the recorder noted in metadata.yaml (custom_data); empty without it."""
        return self._reader.readers[0].storage.metadata.custom or {}

    @property
    def counts(self) -> dict[str, int]:
        """Topic -> number of messages."""
        counts = dict.fromkeys(self.kinds, 0)
        for connection in self._reader.connections:
            counts[connection.topic] += connection.msgcount
        return counts

    def topics_of(self, *kinds: str) -> list[str]:
        """Topics of these message types, in order of their names."""
        return sorted({c.topic for c in self._reader.connections if c.msgtype in kinds})

    def raw(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        """(topic, time of recording in ns, CDR) in the order of recording."""
        chosen = [c for c in self._reader.connections if c.topic in topics]
        if not chosen:
            return
        try:
            for connection, time, raw in self._reader.messages(connections=chosen):
                yield connection.topic, time, bytes(raw)
        except Exception as error:
            raise RecordingError(f"bag '{self.path}' is damaged ({_named(error)})") from error

    def decode(self, topic: str, raw: bytes) -> Any:
        """A message as an object with ROS's field names; arrays are numpy's."""
        kind = self.kinds[topic]
        try:
            return self._reader.deserialize(raw, kind)
        except Exception as error:
            raise RecordingError(
                f"bag '{self.path}': a message of {topic} ({kind}) cannot be decoded: "
                f"{_named(error)}"
            ) from error

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, time of recording in ns, message) in the order of recording."""
        for topic, time, raw in self.raw(topics):
            yield topic, time, self.decode(topic, raw)


def _named(error: Exception) -> str:
    """Type and text of an error of the parsers, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
