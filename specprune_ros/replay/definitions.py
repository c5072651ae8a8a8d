"""Message definitions for bags: those of the ROS that is in use, as they lie in its prefixes."""
from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ..errors import RecordingError, SpecpruneError
from ..share import PACKAGE, share_dir

#: The messages of this package.
OWN_TYPES = tuple(f"{PACKAGE}/msg/{name}"
                  for name in ("ActionChunk", "PruneStats", "SimStatus", "VlaStatus"))


@lru_cache(maxsize=1)
def standard_store() -> Typestore:
    """Every standard message, and those of this package: for bags that hold no definitions.

    Do not change it.
    """
    store = get_typestore(Stores.LATEST)
    add_definitions(store, OWN_TYPES)
    return store


def add_definitions(store: Typestore, kinds: Iterable[str]) -> None:
    """Make message types known to a store, and the types of their fields.

    Raises:
        RecordingError: a definition is nowhere to be found, or not understood.
    """
    wanted = [kind for kind in kinds if kind not in store.fielddefs]
    while wanted:
        kind = wanted.pop()
        if kind in store.fielddefs:
            continue
        found = _read(kind)
        store.register(found)
        for _, fields in found.values():
            wanted += [name for name in _names(fields) if name not in store.fielddefs]


def writing_store(kinds: Iterable[str]) -> Typestore:
    """Definitions to be written into a bag: those of the ROS that is in use. Raises as above."""
    store = get_typestore(Stores.EMPTY)
    add_definitions(store, kinds)
    return store


def _read(kind: str) -> dict:
    """A type's definition from the first prefix that has it, else from rosbags."""
    package, _, name = kind.split("/")
    for folder in _folders(package):
        path = folder / "msg" / f"{name}.msg"
        if path.is_file():
            try:
                return get_types_from_msg(path.read_text(encoding="utf-8"), kind)
            except (OSError, UnicodeDecodeError, TypesysError) as error:
                raise RecordingError(f"{path} cannot be used: {error}") from error
    known = get_typestore(Stores.LATEST).fielddefs
    if kind not in known:
        raise RecordingError(
            f"the definition of {kind} is not in share/{package}/msg of any ROS prefix: source the "
            "workspace that it comes from, or leave the topic out")
    return {kind: known[kind]}


def _folders(package: str) -> Iterator[Path]:
    """The share folders of a package."""
    if package == PACKAGE:
        try:
            yield share_dir()
        except SpecpruneError:
            pass  # the prefixes below may have it all the same
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    for prefix in (*filter(None, prefixes), sys.prefix):  # the wheels lie over the environment
        yield Path(prefix) / "share" / package


def _names(fields: Iterable) -> Iterator[str]:
    """Names of the message types among the fields."""
    for _, (kind, content) in fields:
        if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            kind, content = content[0]
        if kind == Nodetype.NAME:
            yield content
