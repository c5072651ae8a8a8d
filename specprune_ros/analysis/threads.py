"""One thread for everything that computes, so that CPU time means the same everywhere."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit_numeric_threads() -> None:
    """Ask the libraries under NumPy for one thread each, unless the user asked for something.

    They read the environment when they are loaded: call this before NumPy is imported. A pool of
    BLAS threads waits actively, which would count as the CPU time of whatever runs meanwhile.
    """
    for name in _VARIABLES:
        os.environ.setdefault(name, "1")


def thread_settings() -> dict[str, str | None]:
    """What the environment says, for the record of an experiment."""
    return {name: os.environ.get(name) for name in _VARIABLES}


@contextmanager
def numeric_threads(count: int) -> Iterator[None]:
    """Torch and OpenCV on so many CPU threads; as before afterwards."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def one_thread() -> AbstractContextManager[None]:
    """:func:`numeric_threads` of one."""
    return numeric_threads(1)
