"""Where the files that come with the package are: launch/, config/, models/, package.xml."""
from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import SpecpruneError

PACKAGE = "specprune_ros"

#: The checkpoint that comes with the package.
DEFAULT_CHECKPOINT = "specprune-tabletop"


def share_dir() -> Path:
    """Return the folder that holds ``config/``, ``launch/``, ``models/`` and ``package.xml``.

    Code that runs from a checkout reads the checkout's files. Installed code reads
    ``share/specprune_ros`` of the prefix it was installed under, or of the ROS prefixes in
    AMENT_PREFIX_PATH.

    Raises:
        SpecpruneError: the package was copied somewhere without its share folder.
    """
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "package.xml").is_file() and (checkout / "config").is_dir():
        return checkout
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    folders = [Path(p) / "share" / PACKAGE for p in (*_own_prefixes(), *prefixes, sys.prefix)]
    for folder in folders:
        if (folder / "package.xml").is_file():
            return folder
    raise SpecpruneError(
        f"the files of {PACKAGE} (config, launch, models) are in none of "
        f"{', '.join(map(str, folders))}. Install the package with `pip install .` or "
        "`colcon build`, and source the workspace's setup file."
    )


def checkpoint_dir(given: str = "") -> Path:
    """Directory of a checkpoint: a path, or the name of one that is installed with the package.

    An empty string stands for the one that comes with the package. The directory need not exist.
    """
    path = Path(given or DEFAULT_CHECKPOINT).expanduser()
    if len(path.parts) == 1 and not path.exists():
        return share_dir() / "models" / path
    return path


def _own_prefixes() -> list[Path]:
    """Return the prefixes this copy of the package may have been installed under."""
    # <prefix>/lib/pythonX.Y/site-packages/specprune_ros/share.py, where Debian's and Ubuntu's
    # Python puts local/ between prefix and lib.
    return list(Path(__file__).resolve().parents[4:6])
