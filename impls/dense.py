"""Family dense: the baseline, a plain FFN with the FLOPs of the active experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from harness import Forward, Layer, Routing, implementation
from impls._dispatch import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


@implementation("dense", family="dense", passes=("forward", "training"))
def dense(layer: Layer) -> Forward:
    """Send every token through one FFN of width k*I, made of experts 0..k-1; the routing is ignored.

    It equals those k experts with weight 1 each, and is what the same active FLOPs cost without sparsity: no sort, no
    gather, and k experts to read instead of up to E. It computes another function, so it is never ranked.

    Writes ``T*k * 4I * s`` bytes for gated experts, s bytes an element. ``down`` is copied to (H, k*I), ``k*H*I*s``
    bytes, in prepare and in training as well: a plain FFN keeps its weights that way, so that no call should pay for
    it. The gradients do pay for the layer's own layout: zeros are written for the other E-k experts.
    """
    k, width = layer.shape.active_experts, layer.proj_in.shape[1]
    # Nothing of these few steps is freed by a backward pass, so that every call can go back through them to the layer.
    with torch.set_grad_enabled(layer.down.requires_grad):
        proj_in = layer.proj_in[:k].flatten(0, 1)
        bias_in = None if layer.proj_in_bias is None else layer.proj_in_bias[:k].flatten()
        down = side_by_side(layer.down[:k])
        bias_out = None if layer.down_bias is None else layer.down_bias[:k].sum(0)

    def forward(x: Tensor, routing: Routing) -> Tensor:  # noqa: ARG001 (the contract's second argument)
        hidden = layer.activate(F.linear(x, proj_in, bias_in).view(len(x), k, width))
        return F.linear(hidden.flatten(1), down, bias_out)

    return forward
