"""An expert's projection inside a kernel: rows times a weight matrix whose rows are contiguous, bias and activation."""

from __future__ import annotations

import triton
import triton.language as tl

from impls.fused.dot import dot
from impls.fused.slopes import gated_value_and_slopes, value_and_slope
from impls.fused.tiling import halves, load_inside


@triton.jit
def project(
    left_rows,
    first_row,
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
    TMA_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Rows times some of one expert's weight rows, in float32: (BLOCK_M, BLOCK_N), twice where gated.

    ``left_rows`` (BLOCK_M,) points at the start of each row of LENGTH elements, or with TMA_ROWS is the descriptor of
    rows that lie together (``packed_rows``), from ``first_row`` on; by pointers and unless EVERY_ROW, rows that are not
    ``inside_rows`` are not read and count as 0. ``weight`` is (E, WIDTH, LENGTH), or where GATED (E, 2 * WIDTH, LENGTH)
    with gate rows before up rows, or with TMA its descriptor (``along_rows``); ``bias`` is (E, WIDTH or 2 * WIDTH) or
    None, ``expert`` int64. Columns behind WIDTH mean nothing. Returns gate and up; plain, both are the product.

    Gate and up are the two halves of one product, which has one accumulator: between two, the assembler of CUDA waits
    for each where the loop around them goes over tiles, too.
    """
    PARTS: tl.constexpr = 2 if GATED else 1
    steps = tl.arange(0, BLOCK_K)
    place = tl.arange(0, PARTS * BLOCK_N)
    row = place // BLOCK_N * WIDTH + tl.minimum(first_column + place % BLOCK_N, WIDTH - 1)
    if not TMA_ROWS:
        left = left_rows[:, None] + steps[None, :]
    if not TMA:
        right = weight + expert * (PARTS * WIDTH * LENGTH) + row[None, :] * LENGTH + steps[:, None]
    first_part = (PARTS * expert).to(tl.int32)
    every_column = tl.full((PARTS * BLOCK_N,), True, tl.int1)
    sums = tl.zeros((BLOCK_M, PARTS * BLOCK_N), tl.float32)
    for step in range(0, LENGTH, BLOCK_K):
        inside = steps < LENGTH - step
        if TMA_ROWS:
            a = left_rows.load([first_row, step])
        else:
            a = load_inside(left, inside_rows, inside, EVERY_ROW, LENGTH % BLOCK_K == 0)
            left += BLOCK_K
        if TMA:
            # What it fetches outside of the expert's matrix is zero.
            fetched = weight.load([first_part, first_column, step])
            b = tl.trans(tl.reshape(fetched, (PARTS * BLOCK_N, BLOCK_K)))
        else:
            b = load_inside(right, inside, every_column, LENGTH % BLOCK_K == 0, True)
            right += BLOCK_K
        sums = dot(a, b, sums)
    if bias is not None:
        sums += tl.load(bias + expert * (PARTS * WIDTH) + row).to(tl.float32)[None, :]
    return halves(sums, BLOCK_M, BLOCK_N) if GATED else (sums, sums)


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
