"""triton_kernels: OpenAI's Triton kernels for experts, whose products gather, activate and scatter.

Written against the generation that has ``matmul`` (python/triton_kernels/triton_kernels/matmul.py at 0223f69, and what
SGLang 0.5.23 and vLLM 0.33 pass to it); older ones, with ``matmul_ogs``, are refused. It has no version of its own to
speak of: it lies in Triton's repository, and the triton-kernels 0.1.0 at PyPI is another package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from impls._dispatch import sort_slots
from impls.peers._layout import interleave
from impls.peers._limits import Limits
from impls.peers._package import Package, peer

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Forward, Layer, Routing

PACKAGE = Package(
    "triton_kernels",
    "pip install 'git+https://github.com/triton-lang/triton.git#subdirectory=python/triton_kernels'",
    also="an NVIDIA GPU (triton-kernels at PyPI is another package)",
    part="matmul.py",
)
ALPHA, LIMIT = 1.702, 7.0
"""Of clamped_swiglu, as gpt-oss has it."""
LIMITS = Limits(
    "triton_kernels",
    gated=("silu", "gelu", "relu", "clamped_swiglu"),
    plain=("silu", "gelu", "relu"),
    bias=True,
    multiple=8,
)


@peer("triton_kernels", PACKAGE, devices=("cuda",), dtypes=("bf16", "fp16"), unsupported=LIMITS)
def triton_kernels(layer: Layer) -> Forward:
    """Product that gathers its rows, activation, product that weighs its rows and scatters them to their slots, sum.

    With clamped_swiglu the activation is part of the first product, for which prepare interleaves gate and up; it has
    no other in its products, and torch computes the rest. Biases are copied to float32, as its callers do. Weights lie
    as they are, seen transposed.

    Every call pays for the sort and the ragged metadata (starts and tiles for each tile height). A slot's ids and
    weights in the order of experts come from torch: its own top-k would hand them over.
    """
    from triton_kernels.matmul import FnSpecs, FusedActivation, matmul
    from triton_kernels.swiglu import swiglu_fn
    from triton_kernels.tensor import make_ragged_tensor_metadata

    experts = layer.shape.experts
    fuses = layer.shape.activation == "clamped_swiglu"
    proj_in, bias_in, bias_out = layer.proj_in, layer.proj_in_bias, layer.down_bias
    if fuses:
        proj_in, bias_in = interleave(proj_in), None if bias_in is None else interleave(bias_in)
    bias_in, bias_out = (None if bias is None else bias.float() for bias in (bias_in, bias_out))
    specs = FnSpecs("swiglu", swiglu_fn, ("alpha", "limit"), reduction_n=2)
    fused = FusedActivation(specs, (ALPHA, LIMIT)) if fuses else None

    def forward(x: Tensor, routing: Routing) -> Tensor:
        _, order, ends = sort_slots(routing, experts)
        tokens, k = routing.expert_ids.shape
        ragged = make_ragged_tensor_metadata(F.pad(ends, (1, 0)).diff(), len(order))
        hidden = matmul(
            x,
            proj_in.mT,
            bias_in,
            a_ragged_metadata=ragged,
            gather_indx=(order // k).to(torch.int32),
            fused_activation=fused,
        )
        y: Tensor = matmul(
            hidden if fuses else layer.activate(hidden),
            layer.down.mT,
            bias_out,
            a_ragged_metadata=ragged,
            scatter_indx=order.to(torch.int32),
            gammas=routing.weights.flatten()[order],
        )
        return y.view(tokens, k, -1).sum(1)

    return forward
