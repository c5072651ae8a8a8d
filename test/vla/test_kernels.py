"""Triton's kernels against torch's operations: interpreted on the CPU, and compiled for sm_90."""
from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from specprune_ros.vla.openvla_oft.elementwise import Elementwise, elementwise

pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds")

# (n, heads of query, of key, head width, width of the gate): odd ones, and those of Llama-2-7B.
SIZES = [(5, 4, 4, 32, 352), (7, 6, 2, 64, 1500), (1, 3, 3, 24, 17), (3, 32, 32, 128, 11008)]

INTERPRETED = """
import torch
from specprune_ros.vla.openvla_oft.elementwise import Elementwise, TritonElementwise
from test_kernels import SIZES, close, inputs
for size in SIZES:
    for dtype in (torch.float32, torch.bfloat16):
        close(TritonElementwise(), Elementwise(), inputs(size, dtype, "cpu"))
print("same")
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from specprune_ros.vla.openvla_oft import kernels
pointer, whole = "*bf16", "i32"
for kernel, signature, constants in (
    (kernels._rotate, dict(x=pointer, cos=pointer, sin=pointer, row_stride=whole,
     angle_stride=whole, heads=whole), dict(HALF=64, BLOCK=64, HEADS=8)),
    (kernels._gate, dict(gate_up=pointer, out=pointer, in_stride=whole, out_stride=whole,
     width=whole), dict(COLUMNS=1024)),
):
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
print("compiled")
"""


def inputs(size, dtype, device):
    n, heads, kv_heads, width, gate = size
    generator = torch.Generator().manual_seed(n)
    qkv = torch.randn(n, heads + 2 * kv_heads, width, generator=generator)
    angles = torch.randn(n, width // 2, generator=generator)
    cos, sin = (torch.cat([x, x], dim=-1) for x in (angles.cos(), angles.sin()))
    gate_up = 3 * torch.randn(n, 2 * gate, generator=generator)
    return heads, *(x.to(device, dtype) for x in (qkv, cos, sin, gate_up))


def close(fused: Elementwise, plain: Elementwise, given) -> None:
    heads, qkv, cos, sin, gate_up = given
    # In bfloat16 torch rounds in between, which the kernels do not.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if qkv.dtype is torch.float32 else {
        "rtol": 2e-2, "atol": 2e-2}
    found = fused.rope(qkv.clone(), cos, sin, heads)
    expected = plain.rope(qkv.clone(), cos, sin, heads)
    for a, b in zip(found, expected):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, **tolerance)
    torch.testing.assert_close(fused.swiglu(gate_up), plain.swiglu(gate_up.clone()), **tolerance)


def python(code: str, **environment: str) -> str:
    """Run code in an interpreter of its own: Triton reads the environment when it is imported."""
    import os
    from pathlib import Path

    here = Path(__file__).resolve()
    paths = [str(here.parents[2]), str(here.parent), *filter(None, sys.path)]
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True,
                            text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_kernels_interpreted_are_torchs_operations():
    assert "same" in python(INTERPRETED, TRITON_INTERPRET="1")


def test_kernels_compile_for_hopper(tmp_path):
    assert "compiled" in python(COMPILED, TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_on_the_device(size, dtype):
    fused = elementwise(torch.device("cuda"))
    assert fused.name == "triton"
    close(fused, Elementwise(), inputs(size, dtype, "cuda"))
