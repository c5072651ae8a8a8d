"""What a result came from: versions, the commit, and hashes of files and checkpoints."""
from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import __version__
from .errors import CheckpointError

#: Distributions that results may depend on; a sourced ROS has ``rclpy`` only.
DISTRIBUTIONS = ("torch", "transformers", "tokenizers", "numpy", "mujoco", "rclpy",
                 "ros-rmw-fastrtps-cpp", "ros-fastdds", "rosbags")
_CHUNK = 1 << 20
_WHOLE = 64 * _CHUNK  # larger files of a checkpoint are hashed in samples


def versions(distributions: Iterable[str] = DISTRIBUTIONS) -> dict[str, str]:
    """Versions of the package, of Python, and of the distributions that are installed."""
    found = {"specprune_ros": __version__, "python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the checkout that the package runs from, ``-dirty`` if it has changes; else None.

    An installed copy has no commit of its own, even if it lies inside some checkout.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty",
             "--exclude=*"],
            capture_output=True, text=True, timeout=20, check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # git is not installed, or refuses a folder of another owner
    return found.stdout.strip()


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def checkpoint_hash(directory: Path) -> str:
    """One hash over the files of a checkpoint: names and content.

    Of files above 64 MiB, the size, the first and last MiB and every 64th MiB count, and the hash
    begins with ``sampled-sha256:`` instead of ``sha256:``.

    Raises:
        CheckpointError: the directory or a file cannot be read.
    """
    total, sampled = hashlib.sha256(), False
    try:
        files = sorted(path for path in directory.iterdir() if path.is_file())
        for path in files:
            size = path.stat().st_size
            sampled |= size > _WHOLE
            content = file_hash(path) if size <= _WHOLE else _sampled_hash(path, size)
            total.update(f"{path.name}\0{size}\0{content}\n".encode())
    except OSError as error:
        raise CheckpointError(f"checkpoint '{directory}' cannot be read: {error}") from error
    return f"{'sampled-' if sampled else ''}sha256:{total.hexdigest()}"


def _sampled_hash(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in (*range(0, size, _WHOLE), size - _CHUNK):
            file.seek(start)
            digest.update(file.read(_CHUNK))
    return digest.hexdigest()
