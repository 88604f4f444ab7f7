"""Family loop: one expert after the other, the way it is first written."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Forward, Layer, Routing, implementation
from impls._dispatch import refuse_graph


@implementation("loop", family="loop", passes=("forward", "training"), unsupported=refuse_graph)
def loop(layer: Layer) -> Forward:
    """For every expert that was hit: its tokens, linear, activation, linear, weigh, add to the output.

    Writes ``T*k * (3H + 4I) * s`` bytes for gated experts, s bytes an element, but holds one expert's share at a time.
    Sums over a token's experts in x's dtype, one rounding for each.

    Reads only the experts that were hit and computes no padding: good when experts are few and large, or on the CPU.
    Each expert costs some ten kernels, and finding its tokens (``nonzero``) makes the host wait for a CUDA device: with
    many experts it is bound by that, not by arithmetic. In training a gradient of x, (T, H), is built for every expert.
    """
    experts = layer.shape.experts
    nothing = [None] * experts

    def forward(x: Tensor, routing: Routing) -> Tensor:
        # Unbound here, not indexed one by one: the gradients are then stacked once instead of summed E times.
        proj_in, down = layer.proj_in.unbind(), layer.down.unbind()
        bias_in = nothing if layer.proj_in_bias is None else layer.proj_in_bias.unbind()
        bias_out = nothing if layer.down_bias is None else layer.down_bias.unbind()
        y = torch.zeros_like(x)
        for expert in _hit(routing, experts):
            tokens, slots = torch.where(routing.expert_ids == expert)
            hidden = layer.activate(F.linear(x[tokens], proj_in[expert], bias_in[expert]))
            out = F.linear(hidden, down[expert], bias_out[expert])
            y.index_add_(0, tokens, out * routing.weights[tokens, slots, None].to(x.dtype))
        return y

    return forward


def _hit(routing: Routing, experts: int) -> list[int]:
    hit = [expert for expert in torch.unique(routing.expert_ids).tolist() if expert < experts]
    # Without a token anywhere, one empty expert keeps the output a function of x and the weights.
    return hit or [0]
