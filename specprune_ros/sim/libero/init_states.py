"""LIBERO's initial states from their files, without running what a pickle may hold.

A ``.pruned_init`` file is what ``torch.save`` made of one NumPy array: a zip archive with a pickle
that needs four functions of NumPy and the standard library. Those are all that is let in here, so
neither ``torch.load(weights_only=False)`` nor torch is needed.
"""
from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import SimulatorError

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in an initial state")
        if name == "_reconstruct":  # its module has another name in NumPy 1 and 2
            return np.ndarray(0).__reduce__()[0]
        return super().find_class(module, name)


def read_init_states(path: Path) -> np.ndarray:
    """The initial states of a task, float64 [trials, D]: time, positions, velocities of MuJoCo.

    Raises SimulatorError if the file is no such thing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            states = _ArrayUnpickler(io.BytesIO(archive.read(member))).load()
    except (OSError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError,
            AttributeError, TypeError, IndexError, KeyError) as error:
        raise SimulatorError(
            f"'{path}' holds no initial states ({type(error).__name__}: {error}): install LIBERO "
            "again"
        ) from error
    if not (isinstance(states, np.ndarray) and states.ndim == 2
            and states.dtype == np.float64 and np.isfinite(states).all()):
        raise SimulatorError(f"'{path}' holds no array of finite numbers [trials, D]")
    return states
