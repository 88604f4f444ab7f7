"""Matrix products inside a kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from impls._interpreter import interpreted

INTERPRETED = tl.constexpr(interpreted())
"""Triton's interpreter multiplies bf16 wrongly: there, operands are widened first (tests/impls/fused/test_dot.py)."""


@triton.jit
def dot(a, b, sums):
    """Add a (M, K) @ b (K, N) to ``sums`` (M, N) in float32. Float32 operands are not rounded to TF32."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="ieee", out_dtype=tl.float32)


@triton.jit
def narrow(values, dtype: tl.constexpr):
    """Round float32 values to ``dtype``, to the nearest, ties to even; the interpreter would cut bf16 off."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = values.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        # Without the lower half: the interpreter would not make 0 of what is left of it.
        values = ((bits >> 16) << 16).to(tl.float32, bitcast=True)
    return values.to(dtype)
