"""Backward over row tiles, first step: from dy through the second product and the activation to the pre-activation z.

Every row belongs to one slot. A program owns what it writes, so that nothing is added atomically and the same call
gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from impls.fused.configuration import blocks_of
from impls.fused.dot import narrow
from impls.fused.operands import across_rows
from impls.fused.slopes import gated_value_and_slopes, value_and_slope
from impls.fused.tiling import GROUP, find_tile, grid, halves, multiply

if TYPE_CHECKING:
    from impls.fused.configuration import Tiles
    from impls.fused.placement import Placement
    from impls.fused.prefill import Activation

LEAST_SLICE, SLICE_PER_WARP = 16, 4
"""Columns that go through the activation at once: what 255 registers hold beside the accumulators (read off ptxas)."""


class Hidden(NamedTuple):
    """What the first step found, each None when not asked for.

    dz (N, Z); ``weighted`` (N, I) = routing weight * a(z); ``shares`` (tiles of I, N), which add up to da . a.
    """

    dz: Tensor | None
    weighted: Tensor | None
    shares: Tensor | None


def grad_hidden(
    dy: Tensor,
    down: Tensor,
    z: Tensor,
    weights: Tensor,
    placement: Placement,
    activation: Activation,
    tiles: Tiles,
    *,
    dz: bool,
    weighted: bool,
    shares: bool,
) -> Hidden:
    """Back through the second product and the activation: dy (T, H), down (E, H, I), z (N, Z), weights (T, K)."""
    row_count, (_, hidden, expert_hidden) = len(z), down.shape
    column_tiles = blocks_of(expert_hidden, tiles.block_n)
    made = Hidden(
        dz=torch.empty_like(z) if dz else None,
        weighted=z.new_empty(row_count, expert_hidden) if weighted else None,
        shares=weights.new_empty(column_tiles, row_count) if shares else None,
    )
    grad_hidden_kernel[grid(placement, expert_hidden, tiles, tiles.shared_bytes(1, dy.element_size()))](
        dy,
        across_rows(down, tiles),
        z,
        weights,
        placement.slots,
        placement.starts,
        placement.tile_experts,
        placement.tile_rows,
        placement.tile_count,
        *made,
        row_count,
        weights.shape[1],
        H=hidden,
        I=expert_hidden,
        GATED=activation.gated,
        ACTIVATION=activation.name,
        SLICE=max(LEAST_SLICE, SLICE_PER_WARP * tiles.warps),
        TMA=tiles.tma,
        PERSISTENT=tiles.persistent,
        GROUP=GROUP,
        **tiles.launch(),
    )
    return made


@triton.jit(do_not_specialize=["row_count", "top_k"])
def grad_hidden_kernel(
    dy,
    down,
    z,
    weights,
    slots,
    starts,
    tile_experts,
    tile_rows,
    tile_count,
    dz,
    weighted,
    shares,
    row_count,
    top_k,
    H: tl.constexpr,
    I: tl.constexpr,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLICE: tl.constexpr,
    TMA: tl.constexpr,
    PERSISTENT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of rows by hidden units: da = dy[token] @ down, then what the activation a(z) makes of it.

    dy (T, H), down (E, H, I) or its descriptor, weights (T, K), z (N, 2I or I) -> dz like z, ``weighted`` (N, I) =
    weight * a, and ``shares`` (tiles of I, N) = the tile's share of da . a, the gradient of the routing weight.
    PERSISTENT programs share the tiles as ``prefill_kernel``'s do.
    """
    column_tiles = tl.cdiv(I, BLOCK_N)
    if PERSISTENT:
        row_tiles = tl.load(tile_count)
        for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
            expert, first_row, column_tile = find_tile(
                tile, tile_experts, tile_rows, row_tiles, column_tiles, GROUP, True
            )
            grad_hidden_tile(
                dy, down, z, weights, slots, starts, expert, first_row, column_tile, dz, weighted, shares, row_count,
                top_k, H, I, GATED, ACTIVATION, SLICE, TMA, BLOCK_M, BLOCK_N, BLOCK_K,
            )  # fmt: skip
    else:
        row_tiles = tl.num_programs(0) // column_tiles
        expert, first_row, column_tile = find_tile(
            tl.program_id(0), tile_experts, tile_rows, row_tiles, column_tiles, GROUP
        )
        if expert >= 0:
            grad_hidden_tile(
                dy, down, z, weights, slots, starts, expert, first_row, column_tile, dz, weighted, shares, row_count,
                top_k, H, I, GATED, ACTIVATION, SLICE, TMA, BLOCK_M, BLOCK_N, BLOCK_K,
            )  # fmt: skip


@triton.jit
def grad_hidden_tile(
    dy,
    down,
    z,
    weights,
    slots,
    starts,
    expert,
    first_row,
    column_tile,
    dz,
    weighted,
    shares,
    row_count,
    top_k,
    H: tl.constexpr,
    I: tl.constexpr,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLICE: tl.constexpr,
    TMA: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of ``grad_hidden_kernel``, from ``first_row`` on, of ``expert``'s rows only."""
    end = tl.load(starts + expert + 1)
    rows = first_row + tl.arange(0, BLOCK_M)
    # Rows behind the expert's last compute that one again, and store nothing.
    slot = tl.load(slots + tl.minimum(rows, end - 1))
    first_column = column_tile * BLOCK_N
    dy_rows = dy + (slot // top_k).to(tl.int64) * H
    da = multiply(dy_rows, 0, down, expert, first_column, H, I, TMA, False, BLOCK_M, BLOCK_N, BLOCK_K)

    weight = tl.load(weights + slot)
    share = finish_hidden(
        da, z, dz, weighted, rows, rows < end, weight, first_column, I, GATED, ACTIVATION, BLOCK_M, BLOCK_N, SLICE
    )
    if shares is not None:
        tl.store(shares + column_tile.to(tl.int64) * row_count + rows, share, mask=rows < end)


@triton.jit
def finish_hidden(
    da,
    z,
    dz,
    weighted,
    rows,
    inside,
    weight,
    first_column,
    I: tl.constexpr,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    WIDTH: tl.constexpr,
    SLICE: tl.constexpr,
):
    """Take da (BLOCK_M, WIDTH) through the activation, SLICE columns at a time; return each row's share of da . a.

    In slices, because gate, up, the value and two slopes of a whole tile do not fit into registers beside da.
    """
    if WIDTH > SLICE:
        half: tl.constexpr = WIDTH // 2
        left, right = halves(da, BLOCK_M, half)
        shares = finish_hidden(
            left, z, dz, weighted, rows, inside, weight, first_column,
            I, GATED, ACTIVATION, BLOCK_M, half, SLICE,
        )  # fmt: skip
        shares += finish_hidden(
            right, z, dz, weighted, rows, inside, weight, first_column + half,
            I, GATED, ACTIVATION, BLOCK_M, half, SLICE,
        )  # fmt: skip
    else:
        columns = first_column + tl.arange(0, WIDTH)
        kept = inside[:, None] & (columns < I)[None, :]
        there = rows.to(tl.int64)[:, None] * (2 * I if GATED else I) + columns[None, :]
        first = tl.load(z + there, mask=kept, other=0.0).to(tl.float32)
        weighted_da = da * weight[:, None]
        if GATED:
            up = tl.load(z + there + I, mask=kept, other=0.0).to(tl.float32)
            value, slope, slope_up = gated_value_and_slopes(first, up, ACTIVATION)
            if dz is not None:
                tl.store(dz + there + I, narrow(weighted_da * slope_up, dz.dtype.element_ty), mask=kept)
        else:
            value, slope = value_and_slope(first, ACTIVATION)
        if dz is not None:
            tl.store(dz + there, narrow(weighted_da * slope, dz.dtype.element_ty), mask=kept)
        if weighted is not None:
            packed = rows.to(tl.int64)[:, None] * I + columns[None, :]
            tl.store(weighted + packed, narrow(value * weight[:, None], weighted.dtype.element_ty), mask=kept)
        shares = tl.sum(da * value, 1)
    return shares
