"""Few tokens: what counts is to read each expert that was hit once, and to launch little.

Nothing is sorted. A program takes one expert and a few columns of its weights, computes them for all T tokens, and
stores the rows of those that chose it; as many of the T rows as did not are neither read nor stored. Three launches:
hidden units, outputs, weighed sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from impls.fused.combine import combine
from impls.fused.configuration import block_for, blocks_of
from impls.fused.dot import narrow
from impls.fused.operands import along_rows
from impls.fused.projection import activate, project

if TYPE_CHECKING:
    from harness import Layer, Routing
    from impls.fused.configuration import Configuration, Tiles


def decode(x: Tensor, routing: Routing, layer: Layer, configuration: Configuration) -> Tensor:
    """Compute the layer for x (T, H), T at most ``block_m``.

    Writes the hidden units (T, K, I) in x's dtype and the experts' outputs (T, K, H) in float32, for the slots that
    were not dropped.
    """
    shape, ids = layer.shape, routing.expert_ids
    hidden = torch.empty((*ids.shape, shape.expert_hidden), dtype=x.dtype, device=x.device)
    out = torch.empty((*ids.shape, shape.hidden), dtype=torch.float32, device=x.device)
    _project(x.contiguous(), layer.proj_in, layer.proj_in_bias, ids, hidden, shape.activation, configuration.first)
    _project(hidden, layer.down, layer.down_bias, ids, out, "none", configuration.second)
    return combine(out.flatten(0, 1), ids, routing.weights, x.dtype, dropped=shape.experts)


def _project(
    rows: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, out: Tensor, activation: str, tiles: Tiles
) -> None:
    """Rows (T, in) or (T, K, in) times the chosen experts' weights (E, width, in) -> out (T, K, columns)."""
    tokens, top_k = ids.shape
    experts, width, length = weight.shape
    columns = out.shape[-1]
    by_expert = experts <= tokens * top_k
    decode_kernel[(blocks_of(columns, tiles.block_n), experts if by_expert else tokens * top_k)](
        rows,
        along_rows(weight, tiles, parts=width // columns),
        bias,
        ids,
        out,
        tokens,
        top_k,
        experts,
        LENGTH=length,
        WIDTH=columns,
        GATED=width != columns,
        ACTIVATION=activation,
        BY_SLOT=rows.ndim == 3,
        BY_EXPERT=by_expert,
        TMA=tiles.tma,
        BLOCK_SLOTS=block_for(top_k),  # expert choice's K changes: compile once
        **tiles.launch(),
    )


@triton.jit(do_not_specialize=["tokens", "top_k", "experts"])
def decode_kernel(
    rows,
    weight,
    bias,
    ids,
    out,
    tokens,
    top_k,
    experts,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BY_SLOT: tl.constexpr,
    BY_EXPERT: tl.constexpr,
    TMA: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One expert by BLOCK_N of its columns, for all tokens that chose it.

    ``rows`` are tokens (T, LENGTH), or BY_SLOT slots (T, K, LENGTH); ``out`` (T, K, WIDTH). BY_EXPERT the second grid
    axis goes over the experts; otherwise over the slots, and only the first slot of an expert works.
    """
    work = tl.program_id(1)
    token = tl.arange(0, BLOCK_M)[:, None]
    choice = tl.arange(0, BLOCK_SLOTS)[None, :]
    known = tl.load(ids + token * top_k + choice, mask=(token < tokens) & (choice < top_k), other=-1)
    if BY_EXPERT:
        expert = work.to(tl.int64)
    else:
        expert = tl.load(ids + work)
        first = tl.min(tl.where(known == expert, token * top_k + choice, tokens * top_k))
        if (first != work) | (expert >= experts):
            return
    slot = tl.max(tl.where(known == expert, token * top_k + choice, -1), 1)
    chosen = slot >= 0
    if BY_EXPERT and tl.max(slot) < 0:
        return
    first_column = tl.program_id(0) * BLOCK_N
    row = tl.maximum(slot, 0) if BY_SLOT else tl.arange(0, BLOCK_M)
    gate, up = project(
        rows + row * LENGTH, 0, chosen, weight, bias, expert, first_column,
        LENGTH, WIDTH, GATED, False, TMA, False, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    columns = first_column + tl.arange(0, BLOCK_N)
    value = narrow(activate(gate, up, GATED, ACTIVATION), out.dtype.element_ty)
    tl.store(out + slot[:, None] * WIDTH + columns[None, :], value, mask=chosen[:, None] & (columns < WIDTH)[None, :])
