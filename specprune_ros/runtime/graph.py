"""CUDA graphs: a function of tensors at fixed places, captured once and replayed."""
from __future__ import annotations

from typing import Callable, Generic, TypeVar

import torch

from specprune_ros.errors import InferenceError

T = TypeVar("T")
_WARM_UPS = 3  # runs before the capture: libraries pick their kernels and workspaces then


class Captured(Generic[T]):
    """A captured function. ``result`` is what it gave; each replay writes there again.

    The function must read its inputs in place, give tensors, and queue work only. pool: memory that
    graphs share which never run at the same time.
    """

    def __init__(
        self, function: Callable[[], T], device: torch.device, pool: tuple[int, int] | None = None
    ) -> None:
        """Raises InferenceError where the capture fails."""
        with torch.cuda.device(device), torch.inference_mode():
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    function()
            torch.cuda.current_stream(device).wait_stream(stream)
            torch.cuda.synchronize(device)
            self._graph = torch.cuda.CUDAGraph()
            try:
                # Other threads of the process may go on using the device meanwhile.
                with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                    self.result = function()
            except RuntimeError as error:
                raise InferenceError(
                    f"the query could not be captured as a CUDA graph ({error}): use runtime "
                    "'static' or 'eager'"
                ) from error
        self._device = device

    def replay(self) -> T:
        """Queue the whole function; gives ``result``, which the next replay overwrites."""
        with torch.cuda.device(self._device):
            self._graph.replay()
        return self.result


class Direct(Generic[T]):
    """The same without a graph: the function is called each time."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function

    def replay(self) -> T:
        with torch.inference_mode():
            return self._function()


class ReadBack:
    """Copies a device tensor to pinned memory and waits for that, and for nothing else."""

    def __init__(self) -> None:
        self._host: torch.Tensor | None = None

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the host; the next call may overwrite it."""
        if tensor.device.type != "cuda":
            return tensor
        if self._host is None or self._host.shape != tensor.shape:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        # Waiting on the event lets other threads of Python run.
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(tensor.device))
        done.synchronize()
        return self._host
