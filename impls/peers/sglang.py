"""SGLang: its Triton kernel for unquantised experts, behind ``fused_experts``.

Written against version 0.5.23 (sglang/srt/layers/moe/moe_runner/{base,triton_utils/fused_moe}.py and
sglang/srt/layers/moe/topk.py), whose kernel reads a server's settings: prepare publishes those of a server without a
model, as sglang's own tests do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from impls.peers._limits import Limits
from impls.peers._package import Package, peer

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Forward, Layer, Routing

PACKAGE = Package("sglang", "pip install sglang", oldest="0.5.23", below="0.6", also="an NVIDIA GPU")
ALPHA, LIMIT = 1.702, 7.0
"""Of clamped_swiglu, as gpt-oss has it."""
LIMITS = Limits("sglang.fused_experts", gated=("silu", "gelu", "clamped_swiglu"), plain=("silu", "gelu"), bias=True)


@peer("sglang.fused_experts", PACKAGE, devices=("cuda",), dtypes=("bf16", "fp16"), unsupported=LIMITS)
def fused_experts(layer: Layer) -> Forward:
    """Pad slots to tiles by expert, Triton product, activation, product that weighs its rows, sum.

    Nothing is copied in prepare. Every call pays for the alignment of slots to tiles, and looks up the tiles its
    authors tuned for E, I, this device and this Triton; without such a file its default tiles run.

    It writes its answer over its input, as in SGLang's models; x must stay here, so that a copy of it, ``2*T*H*s``
    bytes of traffic, is inside the time, and so are the ids made int32. (Its other way, a new output, asks for a
    server's process groups.) fp32 is left out: it has no kernel for it.
    """
    from sglang.srt.layers.moe.moe_runner import MoeRunnerConfig
    from sglang.srt.layers.moe.moe_runner.triton_utils import fused_experts as compute
    from sglang.srt.layers.moe.topk import StandardTopKOutput
    from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

    set_global_server_args_for_scheduler(ServerArgs(model_path="dummy"))
    shape = layer.shape
    clamped = shape.activation == "clamped_swiglu"
    config = MoeRunnerConfig(
        num_experts=shape.experts,
        num_local_experts=shape.experts,
        hidden_size=shape.hidden,
        intermediate_size_per_partition=shape.expert_hidden,
        top_k=shape.active_experts,
        activation="silu" if clamped else shape.activation,
        is_gated=shape.gated,
        inplace=True,
        gemm1_alpha=ALPHA if clamped else None,
        gemm1_clamp_limit=LIMIT if clamped else None,
        gate_up_interleaved=False,
    )

    def forward(x: Tensor, routing: Routing) -> Tensor:
        chosen = StandardTopKOutput(
            topk_weights=routing.weights, topk_ids=routing.expert_ids.to(torch.int32), router_logits=None
        )
        y: Tensor = compute(
            x.clone(), layer.proj_in, layer.down, chosen, config, b1=layer.proj_in_bias, b2=layer.down_bias
        )
        return y

    return forward
