"""An expert's projection inside a kernel: rows times a weight matrix whose rows are contiguous, bias and activation."""

from __future__ import annotations

import triton
import triton.language as tl

from impls.fused.dot import dot
from impls.fused.slopes import gated_value_and_slopes, value_and_slope
from impls.fused.tiling import load_inside


@triton.jit
def project(
    left_rows,
    inside_rows,
    weight,
    bias,
    expert,
    columns,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    GATED: tl.constexpr,
    EVERY_ROW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Rows times some of one expert's weight rows, in float32: (BLOCK_M, BLOCK_N), twice where gated.

    ``left_rows`` (BLOCK_M,) points at the start of each row of LENGTH elements; unless EVERY_ROW, rows that are not
    ``inside_rows`` are not read and count as 0. ``weight`` is (E, WIDTH, LENGTH), or where GATED (E, 2 * WIDTH, LENGTH)
    with gate rows before up rows, ``bias`` (E, WIDTH or 2 * WIDTH) or None; ``expert`` is int64. Columns behind WIDTH
    repeat the last one. Returns gate and up; plain, ``up`` is zero.
    """
    height = 2 * WIDTH if GATED else WIDTH
    steps = tl.arange(0, BLOCK_K)
    column = tl.minimum(columns, WIDTH - 1)
    left = left_rows[:, None] + steps[None, :]
    right = weight + expert * (height * LENGTH) + column[None, :] * LENGTH + steps[:, None]
    every_column = tl.full((BLOCK_N,), True, tl.int1)
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, LENGTH, BLOCK_K):
        inside = steps < LENGTH - step
        a = load_inside(left, inside_rows, inside, EVERY_ROW, LENGTH % BLOCK_K == 0)
        b = load_inside(right, inside, every_column, LENGTH % BLOCK_K == 0, True)
        gate = dot(a, b, gate)
        if GATED:
            # The up rows lie WIDTH rows behind the gate rows.
            c = load_inside(right + WIDTH * LENGTH, inside, every_column, LENGTH % BLOCK_K == 0, True)
            up = dot(a, c, up)
        left += BLOCK_K
        right += BLOCK_K
    if bias is not None:
        gate += tl.load(bias + expert * height + column).to(tl.float32)[None, :]
        if GATED:
            up += tl.load(bias + expert * height + WIDTH + column).to(tl.float32)[None, :]
    return gate, up


@triton.jit
def activate(gate, up, GATED: tl.constexpr, ACTIVATION: tl.constexpr):
    """Apply the experts' activation in float32, as ``harness.layer.activations`` defines it; ``none`` is for none."""
    if ACTIVATION == "none":
        value = gate
    elif GATED:
        value, _by_gate, _by_up = gated_value_and_slopes(gate, up, ACTIVATION)
    else:
        value, _slope = value_and_slope(gate, ACTIVATION)
    return value
