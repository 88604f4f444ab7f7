"""Many tokens: rows sorted by expert, two grouped products, and the gathers fused into them.

Rows of one expert lie together (``placement``). The first kernel gathers its tokens' rows of x as it reads them, and
applies bias and activation before it stores the hidden units; the second stores the experts' outputs row by row, which
``combine`` adds up. The weights' gathered copies, the tokens' gathered copies, gate and up never exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from impls.fused.combine import combine
from impls.fused.dot import narrow
from impls.fused.operands import along_rows, packed_rows
from impls.fused.placement import Placement, place_for
from impls.fused.projection import activate, project
from impls.fused.tiling import GROUP, find_tile, grid

if TYPE_CHECKING:
    from harness import Layer, Routing
    from impls.fused.configuration import Configuration, Tiles


def prefill(x: Tensor, routing: Routing, layer: Layer, configuration: Configuration) -> Tensor:
    """Compute the layer for x (T, H). Writes the hidden units (N, I) and the outputs (N, H) of N = T * K rows."""
    shape = layer.shape
    placement = place_for(routing, shape.experts, configuration)
    act = Activation(shape.activation, shape.gated)
    hidden, _ = project_in(x, layer.proj_in, layer.proj_in_bias, placement, act, configuration.first)
    out = project_out(hidden, layer.down, layer.down_bias, placement, configuration.second)
    del hidden
    return combine(out, placement.rows, routing.weights, x.dtype)


class Activation(NamedTuple):
    """What stands between the two products: a name of ``harness.layer.activations``, and whether a gate is there."""

    name: str
    gated: bool


def project_in(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    placement: Placement,
    activation: Activation,
    tiles: Tiles,
    *,
    keep_z: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Gather x (T, H), times weight (E, 2I or I, H), bias, activation: the hidden units (N, I), row by row.

    With ``keep_z`` also the pre-activation z (N, 2I or I), which the backward pass needs. Both in x's dtype. Rows of
    dropped slots are not written.
    """
    height = weight.shape[1]
    columns = height // 2 if activation.gated else height
    count = placement.rows.numel()
    hidden = torch.empty((count, columns), dtype=x.dtype, device=x.device)
    z = torch.empty((count, height), dtype=x.dtype, device=x.device) if keep_z else None
    _launch(x.contiguous(), weight, bias, placement, hidden, z, activation, tiles, gather=True)
    return hidden, z


def project_out(hidden: Tensor, weight: Tensor, bias: Tensor | None, placement: Placement, tiles: Tiles) -> Tensor:
    """Multiply hidden units (N, I) by weight (E, H, I), add the bias: outputs (N, H), row by row, not weighed."""
    out = torch.empty((len(hidden), weight.shape[1]), dtype=hidden.dtype, device=hidden.device)
    _launch(hidden, weight, bias, placement, out, None, Activation("none", gated=False), tiles, gather=False)
    return out


def _launch(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    placement: Placement,
    out: Tensor,
    z: Tensor | None,
    activation: Activation,
    tiles: Tiles,
    *,
    gather: bool,
) -> None:
    if not len(out):
        return
    columns = out.shape[1]
    products = 2 if activation.gated else 1
    prefill_kernel[grid(placement, columns, tiles, tiles.shared_bytes(products, out.element_size()))](
        rows if gather else packed_rows(rows, tiles),
        along_rows(weight, tiles, parts=products),
        bias,
        placement.slots,
        placement.starts,
        placement.tile_experts,
        placement.tile_rows,
        placement.tile_count,
        out,
        z,
        placement.rows.shape[1],
        LENGTH=weight.shape[2],
        WIDTH=columns,
        GATED=activation.gated,
        ACTIVATION=activation.name,
        GATHER=gather,
        TMA=tiles.tma,
        PERSISTENT=tiles.persistent,
        GROUP=GROUP,
        **tiles.launch(),
    )


@triton.jit(do_not_specialize=["top_k"])
def prefill_kernel(
    rows,
    weight,
    bias,
    slots,
    starts,
    tile_experts,
    tile_rows,
    tile_count,
    out,
    z,
    top_k,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GATHER: tl.constexpr,
    TMA: tl.constexpr,
    PERSISTENT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Row tiles by BLOCK_N columns: rows (T, LENGTH) gathered by slot, or (N, LENGTH) as they lie -> (N, WIDTH).

    With TMA ``weight`` is a descriptor, and so are ``rows`` that are not gathered.

    PERSISTENT programs share all tiles that belong to an expert; otherwise there is one for every place in the map.
    """
    column_tiles = tl.cdiv(WIDTH, BLOCK_N)
    if PERSISTENT:
        row_tiles = tl.load(tile_count)
        # Flat, the loops over tiles and along the reduction are one, whose pipeline does not run dry between tiles.
        for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
            # The pipeline may ask ahead of the loop, where no tile is left.
            expert, first_row, column_tile = find_tile(
                tile, tile_experts, tile_rows, row_tiles, column_tiles, GROUP, True
            )
            compute_tile(
                rows, weight, bias, slots, starts, expert, first_row, column_tile * BLOCK_N, out, z, top_k,
                LENGTH, WIDTH, GATED, ACTIVATION, GATHER, TMA, BLOCK_M, BLOCK_N, BLOCK_K,
            )  # fmt: skip
    else:
        row_tiles = tl.num_programs(0) // column_tiles
        expert, first_row, column_tile = find_tile(
            tl.program_id(0), tile_experts, tile_rows, row_tiles, column_tiles, GROUP
        )
        if expert >= 0:
            compute_tile(
                rows, weight, bias, slots, starts, expert, first_row, column_tile * BLOCK_N, out, z, top_k,
                LENGTH, WIDTH, GATED, ACTIVATION, GATHER, TMA, BLOCK_M, BLOCK_N, BLOCK_K,
            )  # fmt: skip


@triton.jit
def compute_tile(
    rows,
    weight,
    bias,
    slots,
    starts,
    expert,
    first_row,
    first_column,
    out,
    z,
    top_k,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GATHER: tl.constexpr,
    TMA: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of ``prefill_kernel``, from ``first_row`` and ``first_column`` on, of rows that are all ``expert``'s."""
    TMA_ROWS: tl.constexpr = TMA and not GATHER
    row = first_row + tl.arange(0, BLOCK_M)
    end = tl.load(starts + expert + 1)
    if TMA_ROWS:
        left = rows
    else:
        # Rows behind the expert's last compute that one again, and are not stored.
        source = tl.minimum(row, end - 1)
        if GATHER:
            source = tl.load(slots + source) // top_k
        left = rows + source.to(tl.int64) * LENGTH
    gate, up = project(
        left, first_row, row < end, weight, bias, expert, first_column,
        LENGTH, WIDTH, GATED, True, TMA, TMA_ROWS, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    columns = first_column + tl.arange(0, BLOCK_N)
    inside = (row < end)[:, None] & (columns < WIDTH)[None, :]
    if z is not None:
        height = 2 * WIDTH if GATED else WIDTH
        before = z + row.to(tl.int64)[:, None] * height + columns[None, :]
        tl.store(before, narrow(gate, z.dtype.element_ty), mask=inside)
        if GATED:
            tl.store(before + WIDTH, narrow(up, z.dtype.element_ty), mask=inside)
    value = narrow(activate(gate, up, GATED, ACTIVATION), out.dtype.element_ty)
    tl.store(out + row.to(tl.int64)[:, None] * WIDTH + columns[None, :], value, mask=inside)
