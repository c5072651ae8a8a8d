"""Many small arrays in one buffer, so that one copy takes them to the device, or back."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

_ALIGNMENT = 16  # bytes; no type needs more

Field = tuple[torch.dtype, tuple[int, ...]]


class PackedInputs:
    """Named arrays of fixed type and shape: ``host`` is written, ``device`` is read.

    On the CPU both are the same memory. On a CUDA device the host's is pinned, and
    :meth:`upload` queues one copy; do not write to it again before that has happened.
    """

    def __init__(self, fields: Mapping[str, Field], device: torch.device) -> None:
        offsets, size = {}, 0
        for name, (dtype, shape) in fields.items():
            offsets[name] = size
            size += -(-dtype.itemsize * _numel(shape) // _ALIGNMENT) * _ALIGNMENT
        self._cuda = device.type == "cuda"
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=self._cuda)
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        if not self._cuda:
            self._device = self._host

        def views(buffer: torch.Tensor) -> dict[str, torch.Tensor]:
            found = {}
            for name, (dtype, shape) in fields.items():
                part = buffer[offsets[name] :][: dtype.itemsize * _numel(shape)]
                found[name] = part.view(dtype).view(shape)
            return found

        self.host, self.device = views(self._host), views(self._device)

    def upload(self) -> None:
        """Queue the copy to the device."""
        if self._cuda:
            self._device.copy_(self._host, non_blocking=True)


def pack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The bytes of tensors one after the other, [n] uint8, on their device."""
    return torch.cat([t.contiguous().flatten().view(torch.uint8) for t in tensors])


def unpack(buffer: torch.Tensor, fields: Sequence[Field]) -> list[torch.Tensor]:
    """The tensors of :func:`pack`, copied out of a buffer on the host."""
    found, at = [], 0
    for dtype, shape in fields:
        size = dtype.itemsize * _numel(shape)
        # A copy: the next query writes to the buffer, and a type may need alignment.
        found.append(buffer[at : at + size].clone().view(dtype).view(shape))
        at += size
    return found


def _numel(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()
