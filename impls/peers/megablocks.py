"""MegaBlocks: dropless experts on grouped products, for training (Gale et al. 2022).

Written against version 0.10.0 (megablocks/layers/{arguments,dmoe,moe,mlp,glu}.py at efa7186): ``ParallelDroplessMLP``
is what its ``dMoE`` calls once the router has chosen. Its block-sparse kernels refuse Triton 3.2 and newer, so that
``mlp_impl='grouped'`` is the one that can run. The package pins torch 2.7: with a newer torch it must be built from
source, and nobody here has done that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from impls.peers._layout import put, relaid
from impls.peers._limits import Limits
from impls.peers._package import Package, peer

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Forward, Layer, Routing

PACKAGE = Package(
    "megablocks",
    "pip install megablocks[gg]",
    oldest="0.10",
    below="0.12",
    also="built for this torch, an NVIDIA GPU",
    needs=("grouped_gemm", "stk", "megablocks_ops"),
)
ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}
LIMITS = Limits(
    "megablocks",
    gated=tuple(ACTIVATIONS),
    plain=tuple(ACTIVATIONS),
    refuses=(("graph", "it copies the experts' token counts to the host"),),
    multiple=8,
)


@peer("megablocks", PACKAGE, devices=("cuda",), passes=("forward", "training"), dtypes=("bf16",), unsupported=LIMITS)
def megablocks(layer: Layer) -> Forward:
    """Sort and count in CUDA, gather, grouped products, scatter weighed rows and sum them.

    Prepare copies the weights: gate and up apart, down transposed, each with the experts' rows on top of each other;
    in training their gradients are laid back inside the time. Every call pays for radix sort, histogram, cumulated
    counts, and for the wait while the counts go to the host, which its grouped product wants there.

    The weights are rounded to x's dtype, in which its own router would hand them over.
    """
    from megablocks.layers.arguments import Arguments
    from megablocks.layers.dmoe import ParallelDroplessMLP

    shape = layer.shape
    arguments = Arguments(
        hidden_size=shape.hidden,
        ffn_hidden_size=shape.expert_hidden,
        bias=False,
        return_bias=False,
        activation_fn=ACTIVATIONS[shape.activation],
        moe_num_experts=shape.experts,
        moe_top_k=shape.active_experts,
        moe_loss_weight=0.0,
        mlp_type="glu" if shape.gated else "mlp",
        mlp_impl="grouped",
        fp16=False,
        bf16=True,
        device=torch.device("meta"),
    )
    module = ParallelDroplessMLP(arguments)
    put(module.mlp, **_in_their_layout(layer))

    def forward(x: Tensor, routing: Routing) -> Tensor:
        weights = routing.weights.to(x.dtype)
        # The scores are for its balancing loss, whose weight is 0.
        y: Tensor = module(x[:, None], weights, weights, routing.expert_ids)
        return y[:, 0]

    return forward


def _in_their_layout(layer: Layer) -> dict[str, Tensor]:
    """Return w1 (gate or up), v1 (up) and w2 (down), each (E*I, H)."""
    with relaid(layer):
        w2 = layer.down.mT.flatten(0, 1)
        if layer.gate_up is None:
            return {"w1": layer.proj_in.flatten(0, 1), "w2": w2}
        gate, up = (half.flatten(0, 1) for half in layer.gate_up.chunk(2, dim=1))
        return {"w1": gate, "v1": up, "w2": w2}
