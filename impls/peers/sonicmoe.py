"""SonicMoE: CuTe kernels for Hopper and Blackwell that gather while they multiply (Guo et al. 2025).

Written against version 0.1.2.post1 (sonicmoe/functional/__init__.py, enums.py): ``moe_general_routing_inputs`` is its
entry for a routing that somebody else decided, which transformers uses too. The package pins torch 2.9.1 and older,
so that it must be installed without its dependencies beside a newer torch, and nobody here has done that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from impls.peers._limits import Limits
from impls.peers._package import Package, peer

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Forward, Layer, Routing

PACKAGE = Package(
    "sonicmoe",
    "pip install --no-deps sonic-moe",
    oldest="0.1.2",
    below="0.2",
    also="quack-kernels and nvidia-cutlass-dsl, Python 3.12, a Hopper or Blackwell GPU",
    distribution="sonic-moe",
    needs=("quack", "cutlass"),
)
LIMITS = Limits(
    "sonicmoe",
    gated=("silu",),
    bias=True,
    refuses=(("compile", "it asserts that nobody compiles it"),),
    capabilities=(9, 10),
    multiple=8,
)
"""gelu is left out: its kernel has the tanh approximation, another function."""


@peer(
    "sonicmoe", PACKAGE, devices=("cuda",), passes=("forward", "training"), dtypes=("bf16", "fp16"), unsupported=LIMITS
)
def sonicmoe(layer: Layer) -> Forward:
    """Product that gathers its rows and activates in its epilogue, product into packed rows, gather and weighed sum.

    Nothing is copied in prepare: it takes gate and up one after the other, and sees the layer through permuted views.
    Every call pays for histogram, prefix sums and scatter of the slots. As its entry wants them, ids become int32 and
    the tokens of the slots are written out, inside the time: three small kernels that its own router saves.

    In training it keeps the first product (2I a slot) and recomputes the activation.
    """
    from sonicmoe import moe_general_routing_inputs
    from sonicmoe.enums import ActivationType

    experts = layer.shape.experts
    w1, w2 = layer.proj_in.permute(1, 2, 0), layer.down.permute(1, 2, 0)  # (2I, H, E) and (H, I, E), views

    def forward(x: Tensor, routing: Routing) -> Tensor:
        ids = routing.expert_ids
        tokens = torch.arange(len(ids), dtype=torch.int32, device=ids.device)[:, None].expand(ids.shape)
        y: Tensor
        y, _ = moe_general_routing_inputs(
            x,
            routing.weights.flatten(),
            tokens.flatten(),
            ids.flatten().to(torch.int32),
            w1,
            layer.proj_in_bias,
            w2,
            layer.down_bias,
            E=experts,
            stream_id=torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0,
            activation_type=ActivationType.SWIGLU,
            is_inference_mode_enabled=not torch.is_grad_enabled(),
            concat_layout=True,
        )
        return y

    return forward
