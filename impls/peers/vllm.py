"""vLLM: its Triton kernel for unquantised experts, behind ``fused_experts``.

Written against version 0.33.0 (vllm/model_executor/layers/fused_moe/{fused_moe,activation,config}.py): the activation
is a ``MoEActivation``, biases come in a ``FusedMoEQuantConfig``, there is no ``inplace``. Other versions are refused:
the signature changes with most of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from impls.peers._layout import interleave
from impls.peers._limits import Limits
from impls.peers._package import Package, peer

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Forward, Layer, Routing

PACKAGE = Package("vllm", "pip install vllm", oldest="0.33", below="0.34", also="an NVIDIA GPU")
GATED = {"silu": "SILU", "gelu": "GELU", "clamped_swiglu": "SWIGLUOAI"}
PLAIN = {"silu": "SILU_NO_MUL", "gelu": "GELU_NO_MUL"}
LIMITS = Limits("vllm.fused_experts", gated=tuple(GATED), plain=tuple(PLAIN), bias=True)


@peer("vllm.fused_experts", PACKAGE, devices=("cuda",), dtypes=("bf16", "fp16"), unsupported=LIMITS)
def fused_experts(layer: Layer) -> Forward:
    """Pad slots to tiles by expert, Triton product, activation, product that weighs its rows, sum.

    Nothing is copied in prepare, but for clamped_swiglu, whose kernel wants gate and up interleaved. Every call pays
    for the alignment of slots to tiles (left out at few tokens), and looks up the tiles its authors tuned for E, I and
    this device; without such a file its default tiles run, and vLLM says so in the log.

    Ids are made int32 inside the time, one small kernel that vLLM's own router saves. fp32 is left out: its products
    run in TF32, beyond what a check of fp32 allows.
    """
    from vllm.model_executor.layers.fused_moe import fused_experts as compute
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.config import biased_moe_quant_config

    shape = layer.shape
    activation = MoEActivation[(GATED if shape.gated else PLAIN)[shape.activation]]
    w1, w1_bias = layer.proj_in, layer.proj_in_bias
    if shape.activation == "clamped_swiglu":
        w1, w1_bias = interleave(w1), None if w1_bias is None else interleave(w1_bias)
    biases = None if w1_bias is None else biased_moe_quant_config(w1_bias=w1_bias, w2_bias=layer.down_bias)

    def forward(x: Tensor, routing: Routing) -> Tensor:
        y: Tensor = compute(
            x,
            w1,
            layer.down,
            routing.weights,
            routing.expert_ids.to(torch.int32),
            activation=activation,
            global_num_experts=shape.experts,
            quant_config=biases,
        )
        return y

    return forward
