"""Family batched: every expert's tokens padded to one length, one batched product over all experts."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Forward, Layer, Routing, implementation
from impls._dispatch import Placement, combine_rows, gather_tokens, refuse_graph, sort_slots


@implementation("batched", family="batched", passes=("forward", "training"), unsupported=refuse_graph)
def batched(layer: Layer) -> Forward:
    """Gather tokens into (E, C, H), ``torch.bmm`` over all experts, gather and weigh what belongs to a token.

    C is the largest count of the call, which the host must read (one wait for a CUDA device). All E experts take part,
    hit or not: leaving some out would mean copying the weights of the rest.

    Writes ``E*C * (2H + 4I) * s`` bytes for gated experts, s bytes an element, and ``T*K*H*s`` on the way back.
    Computes E*C rows where T*k are wanted: the largest count over the mean count is the factor of waste. Padding rows
    hold token 0, and nobody reads them back.

    Wins when the load is even and experts are small: one product instead of E. Loses under skew, and at small T, where
    it reads all E experts though few are hit.
    """
    experts = layer.shape.experts

    def forward(x: Tensor, routing: Routing) -> Tensor:
        placement, capacity = _place(routing, experts)
        rows = gather_tokens(x, placement).view(experts, capacity, x.shape[-1])
        hidden = layer.activate(_linear(rows, layer.proj_in, layer.proj_in_bias))
        out = _linear(hidden, layer.down, layer.down_bias)
        return combine_rows(out.flatten(0, 1), routing.weights, placement)

    return forward


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows (E, C, in), weight (E, out, in), bias (E, out) -> (E, C, out)."""
    if bias is None:
        return torch.bmm(rows, weight.mT)
    return torch.baddbmm(bias[:, None], rows, weight.mT)


def _place(routing: Routing, experts: int) -> tuple[Placement, int]:
    """Give slot number c of expert e the row e*C + c; padding rows hold token 0 and are nobody's."""
    ids, order, ends = sort_slots(routing, experts)
    tokens, width = routing.expert_ids.shape
    starts = torch.cat([ends.new_zeros(1), ends])
    # At least one row an expert, so that a call whose slots are all dropped still has a row 0 to read.
    capacity = max(min(1, tokens), int(starts.diff().max()))
    kept = ids < experts
    nowhere = experts * capacity
    place = torch.arange(len(ids), device=ids.device) - starts[ids]
    rows = torch.where(kept, ids * capacity + place, nowhere)
    slots = torch.full((nowhere + 1,), len(ids), device=ids.device).scatter_(0, rows, order)[:nowhere]
    slot_rows = torch.empty_like(order).scatter_(0, order, torch.where(kept, rows, 0))
    padding = slots == len(ids)
    row_tokens = torch.where(padding, 0, slots // max(width, 1))
    return Placement(row_tokens, slots, slot_rows.view(tokens, width), routing.expert_ids < experts), capacity
