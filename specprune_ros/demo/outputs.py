"""The files that ``specprune demo`` writes: checked before the run, written after it."""
from __future__ import annotations

import json
from pathlib import Path

from ..errors import ConfigurationError, SpecpruneError

_SUFFIX = {"--json": ".json", "--video": ".mp4"}


def check_outputs(json_path: Path | None, video_path: Path | None) -> None:
    """Make the folders of both files and see that the files can be written; None is left out.

    Existing files keep their content.

    Raises:
        ConfigurationError: a path cannot be written, or both are the same.
    """
    for option, path in (("--json", json_path), ("--video", video_path)):
        if path is not None:
            _check(option, path)
    if None not in (json_path, video_path) and json_path.resolve() == video_path.resolve():
        raise ConfigurationError(f"--json and --video both name {json_path}; give each a file of "
                                 "its own")


def _check(option: str, path: Path) -> None:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigurationError(f"{option} {path}: {folder} is not a folder; name a file in a "
                                 "folder") from error
    except OSError as error:
        raise ConfigurationError(
            f"{option} {path}: the folder {folder} cannot be made ({error.strerror}); name a file "
            "in a folder that you may write to") from error
    if path.is_dir():
        raise ConfigurationError(f"{option} {path} is a folder; name a file, for example "
                                 f"{path / ('demo' + _SUFFIX[option])}")
    try:
        # By opening it: permission bits say nothing of read-only and special file systems.
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be written ({error.strerror}); name a "
                                 "file that you may write") from error


def write_json(path: Path, result: dict[str, object]) -> None:
    """Write the results. SpecpruneError if that fails, by a full disk for example."""
    try:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise SpecpruneError(f"the results cannot be written to {path} ({error.strerror}); the "
                             "table above has the figures. Free space there, or name another "
                             "file") from error
