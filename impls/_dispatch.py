"""Moving tokens to their experts and back: what several implementations share.

Implementations that compute expert by expert lay the slots out in rows, one expert's rows together. Both moves, tokens
to rows and rows to tokens, are gathers, and so are their gradients: written out here, no backward pass needs atomics or
a sort, as autograd's own gradient of indexing does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from harness import Case, Routing


class Placement(NamedTuple):
    """Which slot sits in which row, for R rows and T x K slots.

    ``tokens`` (R,) is each row's token and ``slots`` (R,) its slot in 0..T*K-1, or T*K for padding, whose token is 0.
    ``rows`` (T, K) is each slot's row, 0 for a dropped slot. ``kept`` (T, K) is False for dropped slots.
    """

    tokens: Tensor
    slots: Tensor
    rows: Tensor
    kept: Tensor


class SortedSlots(NamedTuple):
    """The slots in the order of their experts, dropped ones last.

    ``experts`` (T*K,) ascending, ``order`` (T*K,) the slots so sorted, ``ends`` (E,) int32 where each expert's run
    ends.
    """

    experts: Tensor
    order: Tensor
    ends: Tensor


def sort_slots(routing: Routing, experts: int) -> SortedSlots:
    """Sort the slots by expert, earlier tokens first within one; nothing is copied to the host."""
    ids, order = routing.expert_ids.flatten().sort(stable=True)
    every_expert = torch.arange(experts, device=ids.device)
    return SortedSlots(ids, order, torch.searchsorted(ids, every_expert, right=True, out_int32=True))


def dense_weights(routing: Routing, experts: int) -> Tensor:
    """Spread the weights over a matrix (T, E), zero where a token did not choose an expert."""
    weights = routing.weights
    # Dropped slots, id E, meet in a column of their own.
    matrix = weights.new_zeros(len(weights), experts + 1).scatter(1, routing.expert_ids, weights)
    return matrix[:, :experts]


def side_by_side(down: Tensor) -> Tensor:
    """Copy second projections (n, H, I) into the one of a single FFN of width n*I: (H, n*I)."""
    return down.permute(1, 0, 2).reshape(down.shape[1], -1)


def refuse_graph(case: Case) -> str | None:
    """Refuse execution ``graph`` for what must know on the host how many tokens an expert got."""
    if case.execution == "graph":
        return "a CUDA graph cannot hold it: its tensor sizes follow from the routing, which it reads back to the host"
    return None


def gather_tokens(x: Tensor, placement: Placement) -> Tensor:
    """Copy tokens (T, H) into rows (R, H). A gradient that arrives for padding or a dropped slot counts nothing."""
    rows: Tensor = _Gather.apply(x, placement)  # type: ignore[no-untyped-call]
    return rows


def combine_rows(rows: Tensor, weights: Tensor, placement: Placement) -> Tensor:
    """Take rows (R, H) back to tokens (T, H), weighed by (T, K) and summed over a token's slots.

    Weights and products are rounded to the rows' dtype, the sum accumulates in float32. Only rows that some slot points
    at are read, so that others may hold anything, NaN included; dropped slots count nothing.
    """
    y: Tensor = _Combine.apply(rows, weights, placement)  # type: ignore[no-untyped-call]
    return y


class _Context(Protocol):
    placement: Placement
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Gather(Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, placement: Placement) -> Tensor:
        ctx.placement = placement
        return x[placement.tokens]

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        placement = ctx.placement
        slots = gradient[placement.rows]
        return slots.mul_(placement.kept[..., None]).sum(1), None


class _Combine(Function):
    @staticmethod
    def forward(ctx: _Context, rows: Tensor, weights: Tensor, placement: Placement) -> Tensor:
        kept_weights = torch.where(placement.kept, weights, 0).to(rows.dtype)
        ctx.placement = placement
        ctx.save_for_backward(rows, kept_weights, weights)
        return rows[placement.rows].mul_(kept_weights[..., None]).sum(1)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, kept_weights, weights = ctx.saved_tensors
        tokens, slots, slot_rows, kept = ctx.placement
        row_weights = torch.nn.functional.pad(kept_weights.flatten(), (0, 1))[slots]
        for_rows = gradient[tokens].mul_(row_weights[:, None])
        products = rows[slot_rows].mul_(gradient[:, None])
        for_weights = torch.where(kept, products.sum(-1, dtype=weights.dtype), 0)
        return for_rows, for_weights, None
