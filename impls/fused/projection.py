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
    first_column,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    GATED: tl.constexpr,
    EVERY_ROW: tl.constexpr,
    TMA: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Rows times some of one expert's weight rows, in float32: (BLOCK_M, BLOCK_N), twice where gated.

    ``left_rows`` (BLOCK_M,) points at the start of each row of LENGTH elements; unless EVERY_ROW, rows that are not
    ``inside_rows`` are not read and count as 0. ``weight`` is (E, WIDTH, LENGTH), or where GATED (E, 2 * WIDTH, LENGTH)
    with gate rows before up rows, and with TMA a descriptor of its rows (E * WIDTH or E * 2 * WIDTH, LENGTH);
    ``bias`` is (E, WIDTH or 2 * WIDTH) or None, ``expert`` int64. Columns behind WIDTH mean nothing. Returns gate and
    up; plain, ``up`` is zero.
    """
    height = 2 * WIDTH if GATED else WIDTH
    steps = tl.arange(0, BLOCK_K)
    column = tl.minimum(first_column + tl.arange(0, BLOCK_N), WIDTH - 1)
    left = left_rows[:, None] + steps[None, :]
    if not TMA:
        right = weight + expert * (height * LENGTH) + column[None, :] * LENGTH + steps[:, None]
    first_row = (expert * height).to(tl.int32) + first_column
    every_column = tl.full((BLOCK_N,), True, tl.int1)
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, LENGTH, BLOCK_K):
        inside = steps < LENGTH - step
        a = load_inside(left, inside_rows, inside, EVERY_ROW, LENGTH % BLOCK_K == 0)
        # The up rows lie WIDTH rows behind the gate rows. What TMA fetches behind a row's end is zero.
        if TMA:
            gate = dot(a, tl.trans(weight.load([first_row, step])), gate)
            if GATED:
                up = dot(a, tl.trans(weight.load([first_row + WIDTH, step])), up)
        else:
            b = load_inside(right, inside, every_column, LENGTH % BLOCK_K == 0, True)
            gate = dot(a, b, gate)
            if GATED:
                c = load_inside(right + WIDTH * LENGTH, inside, every_column, LENGTH % BLOCK_K == 0, True)
                up = dot(a, c, up)
            right += BLOCK_K
        left += BLOCK_K
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
