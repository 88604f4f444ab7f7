"""Family einsum: dispatch and combine as products with one-hot masks (GShard, Lepikhin et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Forward, Layer, Routing, implementation
from impls._dispatch import dense_weights, refuse_graph


@implementation("einsum", family="einsum", passes=("forward", "training"), unsupported=refuse_graph)
def einsum(layer: Layer) -> Forward:
    """Four einsums: tokens into (E, C, H) by a one-hot mask, two for the experts, back by the weighted mask.

    Dropless: C is the largest count of the call, which the host must read (one wait for a CUDA device).

    Writes, with s bytes an element, two masks of s bytes and two of one byte, ``(2s + 2) * T*E*C``, and
    ``E*C * (2H + 4I) * s`` for gated experts. Dispatch and combine cost ``4 * T * E*C * H`` FLOPs, gated experts
    ``6 * E*C * H*I``: from T = 1.5 I on the masks cost more than the experts. E*C is at least T*k, so the masks grow
    with the square of T, and with skew.

    Nothing but matrix products: it suits small T, and hardware that can do little else. Memory is what it loses by.
    """
    experts = layer.shape.experts

    def forward(x: Tensor, routing: Routing) -> Tensor:
        dispatch = _dispatch_mask(routing, experts)
        combine = dispatch * dense_weights(routing, experts).to(x.dtype)[:, :, None]
        rows = torch.einsum("tec,th->ech", dispatch.to(x.dtype), x)
        hidden = torch.einsum("ech,efh->ecf", rows, layer.proj_in)
        if layer.proj_in_bias is not None:
            hidden = hidden + layer.proj_in_bias[:, None]
        out = torch.einsum("eci,ehi->ech", layer.activate(hidden), layer.down)
        if layer.down_bias is not None:
            out = out + layer.down_bias[:, None]
        return torch.einsum("tec,ech->th", combine, out)

    return forward


def _dispatch_mask(routing: Routing, experts: int) -> Tensor:
    """Boolean (T, E, C): token t is the c-th token of expert e."""
    ids = routing.expert_ids
    chosen = torch.zeros(len(ids), experts + 1, dtype=torch.bool, device=ids.device).scatter_(1, ids, value=True)
    chosen = chosen[:, :experts]
    place = chosen.cumsum(0)  # 1-based
    capacity = max(1, int(chosen.sum(0).max()))
    places = torch.arange(1, capacity + 1, device=ids.device)
    return (place[:, :, None] == places) & chosen[:, :, None]
