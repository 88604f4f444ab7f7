"""torchtitan: PyTorch's training reference, its experts on torch's grouped products.

Written against version 0.3.0 (torchtitan/models/common/{moe,token_dispatcher}.py): ``RoutedExperts`` with the local
dispatcher is what its ``MoE`` calls once the router has chosen. torchao is no peer of its own: its experts
(torchao/prototype/moe_training 0.18.0) are the same products in 8 and 4 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from impls.peers._layout import put, relaid
from impls.peers._limits import Limits
from impls.peers._package import Package, peer

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Case, Forward, Layer, Routing

PACKAGE = Package("torchtitan", "pip install torchtitan", oldest="0.3", below="0.4")
LIMITS = Limits("torchtitan", gated=("silu",), multiple=8)


def unsupported(case: Case) -> str | None:
    """Say which limit of torchtitan's experts, or of torch's grouped product, a case breaks, or None."""
    if case.device.startswith("cuda") and case.execution == "graph":
        capability = torch.cuda.get_device_capability(case.device)
        if capability < (9, 0):
            return "below compute capability 9.0 torch's grouped_mm is a loop on the host, which no CUDA graph can hold"
    return LIMITS(case)


@peer(
    "torchtitan",
    PACKAGE,
    devices=("cpu", "cuda"),
    passes=("forward", "training"),
    dtypes=("bf16",),
    unsupported=unsupported,
    verified="0.3.0 on CPU, 2026-11",
)
def torchtitan(layer: Layer) -> Forward:
    """Sort slots by expert, gather, three grouped products with silu between, weigh in float32, ``scatter_add``.

    Prepare copies gate and up apart, since its experts keep them so; in training their gradients are laid back inside
    the time. Every call pays for the sort and for the counts, taken from a mask (T, E) as its own layer takes them. The
    sum over a token's slots is a deterministic ``scatter_add`` in x's dtype.
    """
    from torchtitan.models.common.moe import GroupedExperts, RoutedExperts
    from torchtitan.models.common.token_dispatcher import LocalTokenDispatcher

    shape = layer.shape
    experts = GroupedExperts.Config(dim=shape.hidden, hidden_dim=shape.expert_hidden, num_experts=shape.experts)
    dispatcher = LocalTokenDispatcher.Config(num_experts=shape.experts, top_k=shape.active_experts)
    with torch.device("meta"):
        module = RoutedExperts.Config(inner_experts=experts, token_dispatcher=dispatcher).build()
    with relaid(layer):
        gate, up = (half.contiguous() for half in layer.proj_in.chunk(2, dim=1))
    put(module.inner_experts, w1_EFD=gate, w3_EFD=up, w2_EDF=layer.down)

    def forward(x: Tensor, routing: Routing) -> Tensor:
        ids = routing.expert_ids
        mask = torch.zeros(len(ids), shape.experts, dtype=torch.bool, device=ids.device)
        counts = mask.scatter_(-1, ids, value=True).sum(0)
        y: Tensor = module(x[None], routing.weights[None], ids[None], counts)
        return y[0]

    return forward
