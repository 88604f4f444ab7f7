"""Backward over row tiles, after the first step: the gradients of the tokens that rows hold and of their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from impls.fused.configuration import LAUNCH
from impls.fused.dot import narrow
from impls.fused.operands import across_rows, packed_rows
from impls.fused.tiling import GROUP, find_tile, grid, multiply

if TYPE_CHECKING:
    from torch import Tensor

    from impls.fused.configuration import Tiles
    from impls.fused.placement import Placement

BIAS_COLUMNS = 64
"""Columns of dy that are multiplied with a bias at once."""


def grad_input(dz: Tensor, proj_in: Tensor, placement: Placement, tiles: Tiles) -> Tensor:
    """Back through the first product: dz (N, Z), proj_in (E, Z, H) -> the gradient of each row's token (N, H)."""
    width, hidden = proj_in.shape[1:]
    dx_rows = dz.new_empty(len(dz), hidden)
    grad_input_kernel[grid(placement, hidden, tiles, tiles.shared_bytes(1, dz.element_size()))](
        packed_rows(dz, tiles),
        across_rows(proj_in, tiles),
        placement.starts,
        placement.tile_experts,
        placement.tile_rows,
        placement.tile_count,
        dx_rows,
        Z=width,
        H=hidden,
        TMA=tiles.tma,
        PERSISTENT=tiles.persistent,
        GROUP=GROUP,
        **tiles.launch(),
    )
    return dx_rows


def grad_routing(
    shares: Tensor, dy: Tensor, down_bias: Tensor | None, weights: Tensor, placement: Placement, block_m: int
) -> Tensor:
    """Gradient of the routing weights (T, K): each slot's output before it was weighed, times dy; 0 if dropped."""
    gradient = torch.zeros_like(weights)
    grad_routing_kernel[(len(placement.tile_experts),)](
        shares,
        dy,
        down_bias,
        placement.slots,
        placement.starts,
        placement.tile_experts,
        placement.tile_rows,
        gradient,
        weights.numel(),
        len(shares),
        weights.shape[1],
        H=dy.shape[1],
        BLOCK_M=block_m,
        BLOCK_K=BIAS_COLUMNS,
        **LAUNCH,
    )
    return gradient


@triton.jit
def grad_input_kernel(
    dz,
    proj_in,
    starts,
    tile_experts,
    tile_rows,
    tile_count,
    dx_rows,
    Z: tl.constexpr,
    H: tl.constexpr,
    TMA: tl.constexpr,
    PERSISTENT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of ``dx_rows`` (N, H) = dz (N, Z) @ the expert's proj_in, of (E, Z, H); Z is 2I or I.

    With TMA dz and proj_in are descriptors. PERSISTENT programs share the tiles as ``prefill_kernel``'s do.
    """
    column_tiles = tl.cdiv(H, BLOCK_N)
    if PERSISTENT:
        row_tiles = tl.load(tile_count)
        for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
            expert, first_row, column_tile = find_tile(
                tile, tile_experts, tile_rows, row_tiles, column_tiles, GROUP, True
            )
            grad_input_tile(
                dz, proj_in, starts, expert, first_row, column_tile * BLOCK_N, dx_rows, Z, H, TMA,
                BLOCK_M, BLOCK_N, BLOCK_K,
            )  # fmt: skip
    else:
        row_tiles = tl.num_programs(0) // column_tiles
        expert, first_row, column_tile = find_tile(
            tl.program_id(0), tile_experts, tile_rows, row_tiles, column_tiles, GROUP
        )
        if expert >= 0:
            grad_input_tile(
                dz, proj_in, starts, expert, first_row, column_tile * BLOCK_N, dx_rows, Z, H, TMA,
                BLOCK_M, BLOCK_N, BLOCK_K,
            )  # fmt: skip


@triton.jit
def grad_input_tile(
    dz,
    proj_in,
    starts,
    expert,
    first_row,
    first_column,
    dx_rows,
    Z: tl.constexpr,
    H: tl.constexpr,
    TMA: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of ``grad_input_kernel``, from ``first_row`` and ``first_column`` on, of ``expert``'s rows only."""
    end = tl.load(starts + expert + 1)
    rows = first_row + tl.arange(0, BLOCK_M)
    # Rows behind the expert's last compute that one again, and are not stored.
    left = dz if TMA else dz + tl.minimum(rows, end - 1).to(tl.int64) * Z
    dx = multiply(left, first_row, proj_in, expert, first_column, Z, H, TMA, TMA, BLOCK_M, BLOCK_N, BLOCK_K)
    columns = first_column + tl.arange(0, BLOCK_N)
    kept = (rows < end)[:, None] & (columns < H)[None, :]
    tl.store(
        dx_rows + rows.to(tl.int64)[:, None] * H + columns[None, :], narrow(dx, dx_rows.dtype.element_ty), mask=kept
    )


@triton.jit(do_not_specialize=["row_count", "top_k", "share_count"])
def grad_routing_kernel(
    shares,
    dy,
    down_bias,
    slots,
    starts,
    tile_experts,
    tile_rows,
    dweights,
    row_count,
    share_count,
    top_k,
    H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of rows: sum the ``shares`` (share_count, N), add dy . down_bias, store by slot (T, K)."""
    expert = tl.load(tile_experts + tl.program_id(0)).to(tl.int64)
    if expert < 0:
        return
    end = tl.load(starts + expert + 1)
    rows = tl.load(tile_rows + tl.program_id(0)) + tl.arange(0, BLOCK_M)
    slot = tl.load(slots + tl.minimum(rows, end - 1))
    sums = tl.zeros((BLOCK_M,), tl.float32)
    share = shares + rows
    for _ in range(share_count):
        sums += tl.load(share, mask=rows < end, other=0.0)
        share += row_count
    if down_bias is not None:
        steps = tl.arange(0, BLOCK_K)
        dy_rows = dy + (slot // top_k).to(tl.int64) * H
        for step in range(0, H, BLOCK_K):
            inside = step + steps < H
            bias = tl.load(down_bias + expert * H + step + steps, mask=inside, other=0.0).to(tl.float32)
            part = tl.load(dy_rows[:, None] + step + steps[None, :], mask=inside[None, :], other=0.0).to(tl.float32)
            sums += tl.sum(part * bias[None, :], 1)
    tl.store(dweights + slot, sums, mask=rows < end)
