"""Backward kernels over experts: the gradients of their matrices and biases.

A program owns a tile of one expert's gradient and loops over all of that expert's rows, in order: no atomics, the same
bits every time, and exactly zero for an expert without rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from impls.fused.configuration import LAUNCH, blocks_of
from impls.fused.dot import dot, narrow
from impls.fused.tiling import GROUP, load_inside, swizzle

if TYPE_CHECKING:
    from torch import Tensor

    from impls.fused.configuration import Tiles
    from impls.fused.placement import Placement

BIAS_BLOCK = 64
"""Rows and columns of which a bias program reads a square at once."""


def grad_weight(left: Tensor, right: Tensor, placement: Placement, tiles: Tiles, *, gather_left: bool) -> Tensor:
    """Per expert, its rows of ``left``, transposed, times those of ``right``: the gradient of a weight (E, P, Q).

    One of them is packed by row, (N, P) or (N, Q), the other by token, (T, P) or (T, Q), and gathered.
    """
    experts, p, q = len(placement.starts) - 1, left.shape[1], right.shape[1]
    gradient = left.new_empty(experts, p, q)
    grad_weight_kernel[(experts * blocks_of(p, tiles.block_m) * blocks_of(q, tiles.block_n),)](
        left,
        right,
        placement.slots,
        placement.starts,
        gradient,
        placement.rows.shape[1],
        P=p,
        Q=q,
        GATHER_LEFT=gather_left,
        GROUP=GROUP,
        # Triton gives as many stages to the row's tokens as to the rows: this many buffer ``stages`` tiles.
        **tiles.launch(stages=2 * tiles.stages - 1),
    )
    return gradient


def grad_bias(values: Tensor, placement: Placement, weights: Tensor | None = None) -> Tensor:
    """Per expert, the sum of its rows of ``values`` (N, P): the gradient of a bias (E, P).

    With ``weights`` (T, K), ``values`` is (T, P), gathered, and every row counts by its routing weight.
    """
    experts, columns = len(placement.starts) - 1, values.shape[1]
    gradient = values.new_empty(experts, columns)
    grad_bias_kernel[(blocks_of(columns, BIAS_BLOCK), experts)](
        values,
        weights,
        placement.slots,
        placement.starts,
        gradient,
        placement.rows.shape[1],
        P=columns,
        BLOCK_N=BIAS_BLOCK,
        BLOCK_K=BIAS_BLOCK,
        **LAUNCH,
    )
    return gradient


@triton.jit(do_not_specialize=["top_k"])
def grad_weight_kernel(
    left,
    right,
    slots,
    starts,
    gradient,
    top_k,
    P: tl.constexpr,
    Q: tl.constexpr,
    GATHER_LEFT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of ``gradient`` (E, P, Q): the expert's rows of ``left`` (.., P), transposed, times those of ``right``.

    One side is packed by row (N, ..), the other by token (T, ..) and gathered: the left one with GATHER_LEFT.
    """
    p_tiles = tl.cdiv(P, BLOCK_M)
    q_tiles = tl.cdiv(Q, BLOCK_N)
    expert = (tl.program_id(0) // (p_tiles * q_tiles)).to(tl.int64)
    p_tile, q_tile = swizzle(tl.program_id(0) % (p_tiles * q_tiles), p_tiles, q_tiles, GROUP)
    start = tl.load(starts + expert)
    end = tl.load(starts + expert + 1)
    p = p_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    q = q_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(start, end, BLOCK_K):
        rows = first + tl.arange(0, BLOCK_K)
        inside = rows < end
        tokens = tl.load(slots + rows, mask=inside, other=0) // top_k
        left_rows = (tokens if GATHER_LEFT else rows).to(tl.int64)
        right_rows = (rows if GATHER_LEFT else tokens).to(tl.int64)
        a = load_inside(left + left_rows[None, :] * P + p[:, None], p < P, inside, P % BLOCK_M == 0, False)
        b = load_inside(right + right_rows[:, None] * Q + q[None, :], inside, q < Q, False, Q % BLOCK_N == 0)
        sums = dot(a, b, sums)
    there = expert * P * Q + p.to(tl.int64)[:, None] * Q + q[None, :]
    tl.store(gradient + there, narrow(sums, gradient.dtype.element_ty), mask=(p < P)[:, None] & (q < Q)[None, :])


@triton.jit(do_not_specialize=["top_k"])
def grad_bias_kernel(
    values,
    weights,
    slots,
    starts,
    gradient,
    top_k,
    P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store some columns of ``gradient`` (E, P): the sum of an expert's rows of ``values``.

    ``values`` is packed by row (N, P); with ``weights`` (T, K) it is (T, P), gathered, and each row counts by its
    routing weight.
    """
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    expert = tl.program_id(1).to(tl.int64)
    end = tl.load(starts + expert + 1)
    sums = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(tl.load(starts + expert), end, BLOCK_K):
        rows = first + tl.arange(0, BLOCK_K)
        inside = (rows < end)[:, None] & (columns < P)[None, :]
        if weights is not None:
            slot = tl.load(slots + rows, mask=rows < end, other=0)
            there = (slot // top_k).to(tl.int64)[:, None] * P + columns[None, :]
            weight = tl.load(weights + slot, mask=rows < end, other=0.0)
            part = tl.load(values + there, mask=inside, other=0.0).to(tl.float32) * weight[:, None]
        else:
            there = rows.to(tl.int64)[:, None] * P + columns[None, :]
            part = tl.load(values + there, mask=inside, other=0.0).to(tl.float32)
        sums += tl.sum(part, 0)
    tl.store(gradient + expert * P + columns, narrow(sums, gradient.dtype.element_ty), mask=columns < P)
