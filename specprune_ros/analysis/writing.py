"""Places that results go to: checked before anything is computed, failures named afterwards."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specprune_ros.errors import ConfigurationError


def check_output_file(path: Path) -> None:
    """Raise ConfigurationError where no file could be written at ``path``; nothing is left there.

    Missing folders are fine: writing makes them.
    """
    path = Path(path)
    with naming_failures(path):
        if path.is_dir():
            raise ConfigurationError(f"cannot write '{path}': it is a folder; name a file in it, "
                                     f"or another path")
        if path.exists():
            if not os.access(path, os.W_OK):
                raise ConfigurationError(f"cannot write '{path}': it is write-protected; make it "
                                         "writable, or name another path")
            return
        check_output_folder(path.parent, path)


def check_output_folder(path: Path, wanted: Path | None = None) -> None:
    """Raise ConfigurationError where no file could be written in folder ``path``.

    wanted: what the message names, if that is something else.
    """
    path = Path(path)
    wanted = path if wanted is None else wanted
    with naming_failures(wanted):
        existing = path
        while not (existing.exists() or existing == existing.parent):
            existing = existing.parent
        if not existing.is_dir():
            raise ConfigurationError(f"cannot write '{wanted}': '{existing}' is a file, not a "
                                     "folder; name another path")
        # Trying is the only sure way: permissions do not tell of read-only file systems.
        with tempfile.TemporaryFile(dir=existing):
            pass


@contextmanager
def naming_failures(path: Path) -> Iterator[None]:
    """Turn an OSError of writing ``path`` into a ConfigurationError with path and remedy."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"cannot write '{path}': {error.strerror or error}; name a path in a folder that can "
            "be written, on a disk with room"
        ) from error
