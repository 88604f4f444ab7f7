"""Row tiles: how many programs share them, which one a program computes, and its product with an expert's matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from impls.fused.configuration import MOST_WARPS, RESERVED_BYTES, blocks_of
from impls.fused.dot import dot

if TYPE_CHECKING:
    from impls.fused.configuration import Tiles
    from impls.fused.placement import Placement

GROUP = 8
"""Row tiles that go over the columns together, so that what they share is still in the L2 cache."""
INTERPRETED_PROGRAMS = 3
"""Persistent programs under the interpreter."""


def grid(placement: Placement, columns: int, tiles: Tiles, shared_bytes: int) -> tuple[int]:
    """Return the programs that go over a tile map times ``columns``: one a place, or persistent.

    Of these there are as many as the device has room for at a time, as far as registers and shared memory go. Those
    that had to wait would find their tiles' weights gone from the L2 cache.
    """
    if not tiles.persistent:
        return (len(placement.tile_experts) * blocks_of(columns, tiles.block_n),)
    if not placement.slots.is_cuda:
        return (INTERPRETED_PROGRAMS,)
    device = torch.cuda.get_device_properties(placement.slots.device)
    by_memory = device.shared_memory_per_multiprocessor // (shared_bytes + RESERVED_BYTES)
    return (device.multi_processor_count * max(1, min(MOST_WARPS // tiles.warps, by_memory)),)


@triton.jit
def swizzle(program, row_tiles, column_tiles, GROUP: tl.constexpr, AHEAD: tl.constexpr = False):
    """Row and column tile of a program: GROUP row tiles go over the columns together and share them in the L2 cache.

    With AHEAD it may be asked for a program that has no tile, and answers anything.
    """
    group = program // (GROUP * column_tiles)
    within = program % (GROUP * column_tiles)
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    if AHEAD:
        height = tl.maximum(height, 1)
    return group * GROUP + within % height, within // height


@triton.jit
def find_tile(
    program, tile_experts, tile_rows, row_tiles, column_tiles, GROUP: tl.constexpr, AHEAD: tl.constexpr = False
):
    """Expert (int64, -1 where a place in the map belongs to none), first row and column tile of a program."""
    row_tile, column_tile = swizzle(program, row_tiles, column_tiles, GROUP, AHEAD)
    return tl.load(tile_experts + row_tile).to(tl.int64), tl.load(tile_rows + row_tile), column_tile


@triton.jit
def load_inside(pointers, rows, columns, EVEN_ROWS: tl.constexpr, EVEN_COLUMNS: tl.constexpr):
    """Load a tile, 0 where ``rows`` or ``columns`` is False; an even side needs no mask."""
    if EVEN_ROWS and EVEN_COLUMNS:
        tile = tl.load(pointers)
    elif EVEN_ROWS:
        tile = tl.load(pointers, mask=columns[None, :], other=0.0)
    elif EVEN_COLUMNS:
        tile = tl.load(pointers, mask=rows[:, None], other=0.0)
    else:
        tile = tl.load(pointers, mask=rows[:, None] & columns[None, :], other=0.0)
    return tile


@triton.jit
def multiply(
    left_rows,
    first_row,
    weight,
    expert,
    first_column,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    TMA: tl.constexpr,
    TMA_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Product of rows with some columns of one expert's matrix, in float32: (BLOCK_M, BLOCK_N).

    ``left_rows`` (BLOCK_M,) points at the start of each row of LENGTH elements, or with TMA_ROWS is the descriptor of
    rows that lie together (``packed_rows``), from ``first_row`` on. ``weight`` is (E, LENGTH, WIDTH), or with TMA its
    descriptor (``across_rows``); ``expert`` is int64. Columns behind WIDTH give 0.
    """
    columns = first_column + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    if not TMA_ROWS:
        left = left_rows[:, None] + steps[None, :]
    if not TMA:
        right = weight + expert * LENGTH * WIDTH + steps[:, None] * WIDTH + columns[None, :]
    every_row = tl.full((BLOCK_M,), True, tl.int1)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, LENGTH, BLOCK_K):
        inside = steps < LENGTH - step
        if TMA_ROWS:
            a = left_rows.load([first_row, step])
        else:
            a = load_inside(left, every_row, inside, True, LENGTH % BLOCK_K == 0)
            left += BLOCK_K
        if TMA:
            # What it fetches outside of the expert's matrix is zero.
            b = tl.reshape(weight.load([expert.to(tl.int32), step, first_column]), (BLOCK_K, BLOCK_N))
        else:
            b = load_inside(right, inside, columns < WIDTH, LENGTH % BLOCK_K == 0, WIDTH % BLOCK_N == 0)
            right += BLOCK_K * WIDTH
        sums = dot(a, b, sums)
    return sums


@triton.jit
def halves(tile, ROWS: tl.constexpr, HALF: tl.constexpr):
    """Split the columns of a tile (ROWS, 2 * HALF): the left half and the right one, (ROWS, HALF) each."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, HALF)), (0, 2, 1)))
