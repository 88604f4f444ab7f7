"""The activations with their derivatives, inside a kernel, in float32.

The definitions of ``harness.layer.activations`` and what torch's autograd makes of them, also where they bend: relu's
slope is 0 at 0, and a clamp passes the gradient at its bounds and stops it beyond. Comparisons are such that are False
for NaN, so that it passes through.
"""

from __future__ import annotations

import triton
import triton.language as tl

SQRT_HALF = tl.constexpr(0.7071067811865476)
INVERSE_SQRT_2PI = tl.constexpr(0.3989422804014327)
ALPHA = tl.constexpr(1.702)
LIMIT = tl.constexpr(7.0)


@triton.jit
def value_and_slope(z, ACTIVATION: tl.constexpr):
    """f(z) and f'(z) of an elementwise activation: ``silu``, ``gelu`` (by erf) or ``relu``."""
    if ACTIVATION == "relu":
        value = tl.where(z <= 0, 0.0, z)
        slope = tl.where(z <= 0, 0.0, 1.0)
    elif ACTIVATION == "gelu":
        below = 0.5 * (1.0 + tl.erf(z * SQRT_HALF))
        value = z * below
        slope = below + z * INVERSE_SQRT_2PI * tl.exp(-0.5 * z * z)
    else:
        tl.static_assert(ACTIVATION == "silu")
        sigmoid = tl.sigmoid(z)
        value = z * sigmoid
        slope = sigmoid * (1.0 + z * (1.0 - sigmoid))
    return value, slope


@triton.jit
def gated_value_and_slopes(gate, up, ACTIVATION: tl.constexpr):
    """a(gate, up) of a gated expert, da/dgate and da/dup."""
    if ACTIVATION == "clamped_swiglu":
        below = tl.where(gate > LIMIT, LIMIT, gate)
        within = tl.where(up > LIMIT, LIMIT, tl.where(up < -LIMIT, -LIMIT, up))
        sigmoid = tl.sigmoid(below * ALPHA)
        swish = below * sigmoid
        value = (within + 1.0) * swish
        slope = sigmoid * (1.0 + below * ALPHA * (1.0 - sigmoid))
        by_gate = tl.where(gate > LIMIT, 0.0, (within + 1.0) * slope)
        by_up = tl.where(tl.abs(up) > LIMIT, 0.0, swish)
    else:
        swish, slope = value_and_slope(gate, ACTIVATION)
        value = swish * up
        by_gate = slope * up
        by_up = swish
    return value, by_gate, by_up
