"""From rows back to tokens: gather a token's rows and add them up in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from impls.fused.configuration import LAUNCH, block_for, blocks_of
from impls.fused.dot import narrow

BLOCK_SLOTS, BLOCK_COLUMNS = (2, 8), 1024
"""Slots of a token whose rows are on their way at once. Few sizes, since each is compiled, and under expert choice K
changes from call to call; what is masked costs instructions and no bandwidth."""


def combine(rows: Tensor, places: Tensor, weights: Tensor | None, dtype: torch.dtype, dropped: int = -1) -> Tensor:
    """Add up each token's rows (R, H), weighed where ``weights`` (T, K) are given: y (T, H) in ``dtype``.

    ``places`` (T, K) are the slots' rows, -1 for a dropped slot. Where rows lie in the order of the slots, ``places``
    are the expert ids and ``dropped`` the id of a dropped slot. A dropped slot's row is not read.
    """
    tokens, top_k = places.shape
    columns = rows.shape[1]
    y = torch.empty((tokens, columns), dtype=dtype, device=rows.device)
    block = min(BLOCK_COLUMNS, block_for(columns))
    if tokens:
        combine_kernel[(tokens, blocks_of(columns, block))](
            rows,
            places,
            weights,
            y,
            top_k,
            dropped,
            WIDTH=columns,
            IN_PLACE=dropped >= 0,
            HAS_WEIGHTS=weights is not None,
            BLOCK_SLOTS=BLOCK_SLOTS[top_k > BLOCK_SLOTS[0]],
            BLOCK_COLUMNS=block,
            **LAUNCH,
        )
    return y


@triton.jit(do_not_specialize=["top_k", "dropped"])
def combine_kernel(
    rows,
    places,
    weights,
    y,
    top_k,
    dropped,
    WIDTH: tl.constexpr,
    IN_PLACE: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One token by BLOCK_COLUMNS of its output; slots one after the other, always in the same order.

    A row at a time, every thread adds up its own columns, and no thread has to wait for another.
    """
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    sums = tl.zeros((BLOCK_COLUMNS,), tl.float32)
    for begin in range(0, top_k, BLOCK_SLOTS):
        for ahead in tl.static_range(BLOCK_SLOTS):
            slot = token * top_k + begin + ahead
            place = tl.load(places + slot, mask=begin + ahead < top_k, other=dropped)
            if IN_PLACE:
                kept = place != dropped
                row = slot
            else:
                kept = place >= 0
                row = place.to(tl.int64)
            end = tl.where(kept, WIDTH, 0)
            values = tl.load(rows + row * WIDTH + column, mask=column < end, other=0.0).to(tl.float32)
            if HAS_WEIGHTS:
                values *= tl.load(weights + slot, mask=kept, other=0.0)
            sums += values
    tl.store(y + token * WIDTH + column, narrow(sums, y.dtype.element_ty), mask=column < WIDTH)
