"""Many arrays in one buffer."""
from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.runtime.packing import PackedInputs, pack, unpack

TYPES = [torch.uint8, torch.bool, torch.int64, torch.float32, torch.float64, torch.bfloat16]
fields = st.lists(
    st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 4), max_size=3).map(tuple)),
    min_size=1, max_size=6,
)


def values(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


@given(fields, st.integers(0, 1000))
def test_what_is_packed_comes_out(layout, seed):
    tensors = [values(dtype, shape, seed + n) for n, (dtype, shape) in enumerate(layout)]
    buffer = pack(tensors)
    found = unpack(buffer, layout)
    for before, after in zip(tensors, found):
        assert before.dtype == after.dtype and torch.equal(before, after)
    buffer.zero_()  # the next query writes there
    assert all(torch.equal(a, b) for a, b in zip(tensors, found))


@given(fields, st.integers(0, 1000))
def test_inputs_do_not_overlap(layout, seed):
    named = {f"f{n}": field for n, field in enumerate(layout)}
    packed = PackedInputs(named, torch.device("cpu"))
    for n, (name, (dtype, shape)) in enumerate(named.items()):
        packed.host[name].copy_(values(dtype, shape, seed + n))
    packed.upload()
    for n, (name, (dtype, shape)) in enumerate(named.items()):
        assert torch.equal(packed.device[name], values(dtype, shape, seed + n))
