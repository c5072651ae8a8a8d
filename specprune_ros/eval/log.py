"""The episode log: one line of JSON per episode, so that an interrupted evaluation continues."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.record import Record
from specprune_ros.eval.settings import EvalSettings


class EpisodeLog:
    """Finished episodes by key, in a file. Each line names the settings by their hash.

    The file starts with a line that holds the settings themselves. A last line that was cut off
    by a crash is dropped. Use it as a context manager.
    """

    def __init__(self, path: Path, settings: EvalSettings, resume: bool) -> None:
        """Raises ConfigurationError if there is a log and ``resume`` is False, or if its settings
        are others (the message names them)."""
        self.path = path
        self._hash = settings.hash
        self.records: dict[str, Record] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not resume:
            raise ConfigurationError(
                f"'{path}' holds the episodes of an earlier run: continue it with --resume, or "
                "delete it, or write to another --json"
            )
        kept = self._read(settings.identity()) if path.exists() else 0
        self._file = path.open("a")
        self._file.truncate(kept)
        if not kept:
            self._write({"hash": self._hash, "settings": settings.identity()})

    def __enter__(self) -> EpisodeLog:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Keep a finished episode; it is on disk afterwards."""
        self.records[record["key"]] = record
        self._write({"hash": self._hash, **record})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _read(self, identity: Mapping[str, Any]) -> int:
        """Take over the episodes; returns the length in bytes of what is whole."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        head: dict[str, Any] | None = None
        for number, text in enumerate(content[:whole].splitlines(), 1):
            try:
                line = json.loads(text)
                found = line.pop("hash")
                if head is None:
                    head = line["settings"]
                    self._compare(head, identity)
                elif found != self._hash:
                    raise ConfigurationError(f"'{self.path}', line {number}: other settings")
                else:
                    self.records[line["key"]] = line
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ConfigurationError(
                    f"'{self.path}', line {number} is no line of an episode log "
                    f"({type(error).__name__}): delete the file, or write to another --json"
                ) from None
        return whole

    def _compare(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        names = [n for n in {**wanted, **found} if found.get(n) != wanted.get(n)]
        if names:
            different = ", ".join(f"{n} {found.get(n)} (now {wanted.get(n)})" for n in names)
            raise ConfigurationError(
                f"'{self.path}' holds episodes of other settings: {different}. Write to another "
                "--json, or delete the file"
            )
