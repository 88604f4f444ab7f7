"""Sorting slots by expert on the device: a stable counting sort, and the map of row tiles that follows from it.

Nothing is copied to the host and no size depends on data, so that a CUDA graph can hold it; no atomics, so that equal
routings give equal rows. Few slots take one launch, in which every expert looks at all slots; many take three, over
chunks: count, add up, place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from impls.fused.configuration import LAUNCH, block_for, blocks_of

if TYPE_CHECKING:
    from harness import Routing
    from impls.fused.configuration import Configuration

FEW_SLOTS = 8192
"""Up to so many slots one launch is quicker than three."""
BLOCK = 2048
CHUNK = 128
"""Short, since a program goes through its chunk step by step, while chunks go side by side."""
ONE_HOT = 4096
"""Elements of the matrix (slots, experts) that a program counts with at once."""
SCAN_EXPERTS, SCAN_CHUNKS = 4, 512
"""A program adds up the chunks of few experts, block after block: many programs, few blocks."""


class Placement(NamedTuple):
    """Which slot sits in which row, for N = T * K slots.

    ``slots`` (N,) are the slots in the order of their experts, earlier slots first; what stands behind the last row
    kept means nothing. ``starts`` (E + 1,) says where each expert's rows start; the last is the number of rows kept.
    ``rows`` (T, K) is each slot's row, -1 for a dropped one. Row tile m belongs to expert ``tile_experts[m]`` (-1: to
    none) and starts at row ``tile_rows[m]``; it ends with its expert's rows. From ``tile_count`` (1,) on no tile
    belongs to any. All int32.
    """

    slots: Tensor
    starts: Tensor
    rows: Tensor
    tile_experts: Tensor
    tile_rows: Tensor
    tile_count: Tensor


def place_for(routing: Routing, experts: int, configuration: Configuration) -> Placement:
    """Sort the slots by expert as the kernels of a configuration go over them."""
    return place(routing, experts, configuration.first.block_m, dense=configuration.persistent)


def place(routing: Routing, experts: int, block_m: int, *, dense: bool = False) -> Placement:
    """Sort the slots by expert and cut each expert's rows into tiles of ``block_m``.

    There are ``N // block_m + E`` places for tiles, which is enough for any routing. With three launches, and so always
    when ``dense`` and there are slots, no place is left free between experts. With one, expert e's tiles stand from
    ``starts[e] // block_m + e`` on: no two experts' overlap, and nobody has to know the others' number of tiles.
    """
    ids = routing.expert_ids.contiguous()
    count, tiles = ids.numel(), row_tiles(ids.numel(), experts, block_m)
    made = Placement(
        slots=_int32(ids, count),
        starts=_int32(ids, experts + 1),
        rows=_int32(ids, *ids.shape),
        tile_experts=_int32(ids, tiles),
        tile_rows=_int32(ids, tiles),
        tile_count=_int32(ids, 1),
    )
    if count <= FEW_SLOTS and not (dense and count):
        place_few_kernel[(experts + 1,)](ids, *made, count, experts, tiles, BLOCK_M=block_m, BLOCK=BLOCK, **LAUNCH)
    else:
        _place_many(ids, made, experts, block_m)
    return made


def row_tiles(slots: int, experts: int, block_m: int) -> int:
    """Places in the tile map, for any routing of so many slots."""
    return slots // block_m + experts


def _place_many(ids: Tensor, made: Placement, experts: int, block_m: int) -> None:
    count, tiles = ids.numel(), len(made.tile_experts)
    chunks = blocks_of(count, CHUNK)
    columns = block_for(experts)
    sizes = {"CHUNK": CHUNK, "SUB": max(1, min(CHUNK, ONE_HOT // columns)), "COLUMNS": columns}
    before, totals = _int32(ids, chunks, experts), _int32(ids, experts)
    count_kernel[(chunks,)](ids, before, count, experts, **sizes, **LAUNCH)
    scan_kernel[(blocks_of(experts, SCAN_EXPERTS),)](
        before, totals, chunks, experts, BLOCK_CHUNKS=SCAN_CHUNKS, BLOCK_EXPERTS=SCAN_EXPERTS, **LAUNCH
    )
    place_many_kernel[(chunks,)](ids, before, totals, *made, count, experts, tiles, BLOCK_M=block_m, **sizes, **LAUNCH)


def _int32(like: Tensor, *size: int) -> Tensor:
    return torch.empty(size, dtype=torch.int32, device=like.device)


@triton.jit(do_not_specialize=["count", "experts", "tiles"])
def place_few_kernel(
    ids,
    slots,
    starts,
    rows,
    tile_experts,
    tile_rows,
    tile_count,
    count,
    experts,
    tiles,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program e places the slots of expert e and writes its part of the tile map; program E those dropped."""
    expert = tl.program_id(0)
    lower = tl.zeros((BLOCK,), tl.int32)
    mine = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, count, BLOCK):
        slot = begin + tl.arange(0, BLOCK)
        known = tl.load(ids + slot, mask=slot < count, other=experts + 1)
        lower += (known < expert).to(tl.int32)
        mine += (known == expert).to(tl.int32)
    start = tl.sum(lower, 0)
    kept = tl.sum(mine, 0)
    tl.store(starts + expert, start)
    row = start - 1
    for begin in range(0, count, BLOCK):
        slot = begin + tl.arange(0, BLOCK)
        chosen = tl.load(ids + slot, mask=slot < count, other=experts + 1) == expert
        place = row + tl.cumsum(chosen.to(tl.int32), 0)
        tl.store(slots + place, slot, mask=chosen)
        tl.store(rows + slot, tl.where(expert < experts, place, -1), mask=chosen)
        row += tl.sum(chosen.to(tl.int32), 0)
    if expert == experts:
        tl.store(tile_count, tiles)
    first = start // BLOCK_M + expert
    last = tl.where(expert < experts, (start + kept) // BLOCK_M + expert + 1, tiles)
    used = tl.where(expert < experts, tl.cdiv(kept, BLOCK_M), 0)
    for begin in range(first, last, BLOCK):
        tile = begin + tl.arange(0, BLOCK)
        number = tile - first
        tl.store(tile_experts + tile, tl.where(number < used, expert, -1), mask=tile < last)
        tl.store(tile_rows + tile, tl.where(number < used, start + number * BLOCK_M, 0), mask=tile < last)


@triton.jit
def one_hot(known, experts, COLUMNS: tl.constexpr):
    """Matrix (slots, COLUMNS) int32: 1 where a slot's id is a column's expert; nothing for a dropped slot."""
    column = tl.arange(0, COLUMNS)
    return ((known[:, None] == column[None, :]) & (column < experts)[None, :]).to(tl.int32)


@triton.jit(do_not_specialize=["count", "experts"])
def count_kernel(ids, before, count, experts, CHUNK: tl.constexpr, SUB: tl.constexpr, COLUMNS: tl.constexpr):
    """Program c counts the slots of chunk c by expert: ``before`` (chunks, E)."""
    chunk = tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    counts = tl.zeros((COLUMNS,), tl.int32)
    for begin in range(0, CHUNK, SUB):
        slot = chunk * CHUNK + begin + tl.arange(0, SUB)
        known = tl.load(ids + slot, mask=slot < count, other=experts)
        counts += tl.sum(one_hot(known, experts, COLUMNS), 0)
    tl.store(before + chunk * experts + column, counts, mask=column < experts)


@triton.jit(do_not_specialize=["chunks", "experts"])
def scan_kernel(before, totals, chunks, experts, BLOCK_CHUNKS: tl.constexpr, BLOCK_EXPERTS: tl.constexpr):
    """Turn each chunk's counts into the counts of all chunks before it, in place; ``totals`` (E,) of all chunks."""
    column = tl.program_id(0) * BLOCK_EXPERTS + tl.arange(0, BLOCK_EXPERTS)
    running = tl.zeros((BLOCK_EXPERTS,), tl.int32)
    for begin in range(0, chunks, BLOCK_CHUNKS):
        chunk = begin + tl.arange(0, BLOCK_CHUNKS)
        inside = (chunk < chunks)[:, None] & (column < experts)[None, :]
        pointers = before + chunk[:, None] * experts + column[None, :]
        counts = tl.load(pointers, mask=inside, other=0)
        tl.store(pointers, running[None, :] + tl.cumsum(counts, 0) - counts, mask=inside)
        running += tl.sum(counts, 0)
    tl.store(totals + column, running, mask=column < experts)


@triton.jit(do_not_specialize=["count", "experts", "tiles"])
def place_many_kernel(
    ids,
    before,
    totals,
    slots,
    starts,
    rows,
    tile_experts,
    tile_rows,
    tile_count,
    count,
    experts,
    tiles,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
    SUB: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program c places the slots of chunk c and writes an equal share of the tile map."""
    chunk = tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    total = tl.load(totals + column, mask=column < experts, other=0)
    start = tl.cumsum(total, 0) - total
    needed = tl.cdiv(total, BLOCK_M)
    last = tl.cumsum(needed, 0)
    if chunk == 0:
        tl.store(tile_count, tl.sum(needed, 0))
        tl.store(starts + column, start, mask=column < experts)
        tl.store(starts + experts, tl.sum(total, 0))
    row = start + tl.load(before + chunk * experts + column, mask=column < experts, other=0)
    for begin in range(0, CHUNK, SUB):
        slot = chunk * CHUNK + begin + tl.arange(0, SUB)
        known = tl.load(ids + slot, mask=slot < count, other=experts)
        kept = known < experts
        chosen = one_hot(known, experts, COLUMNS)
        place = tl.sum(chosen * (row[None, :] + tl.cumsum(chosen, 0) - 1), 1)
        tl.store(slots + place, slot, mask=kept)
        tl.store(rows + slot, tl.where(kept, place, -1), mask=slot < count)
        row += tl.sum(chosen, 0)
    share = tl.cdiv(tiles, tl.num_programs(0))
    for begin in range(chunk * share, min(chunk * share + share, tiles), SUB):
        tile = begin + tl.arange(0, SUB)
        expert = tl.sum((last[None, :] <= tile[:, None]).to(tl.int32), 1)
        used = expert < experts
        mine = expert[:, None] == column[None, :]
        first = (start - (last - needed) * BLOCK_M)[None, :]
        begins = tl.sum(tl.where(mine, first, 0), 1) + tile * BLOCK_M
        inside = tile < min(chunk * share + share, tiles)
        tl.store(tile_experts + tile, tl.where(used, expert, -1), mask=inside)
        tl.store(tile_rows + tile, tl.where(used, begins, 0), mask=inside)
