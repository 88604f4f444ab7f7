"""FlashInfer: the CUTLASS kernels of TensorRT-LLM, behind ``cutlass_fused_moe``.

Written against version 0.7.2.post1 (flashinfer/fused_moe/core.py, tllm_enums.py); that up comes before gate is taken
from vLLM 0.33 (``swap_w13_to_w31``), which feeds the same kernel.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from impls.peers._layout import swap_halves
from impls.peers._limits import Limits
from impls.peers._package import Package, peer

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Forward, Layer, Routing

PACKAGE = Package(
    "flashinfer",
    "pip install flashinfer-python",
    oldest="0.7.2",
    below="0.8",
    also="a Hopper or Blackwell GPU, nvcc",
    distribution="flashinfer-python",
)
LIMITS = Limits("flashinfer.cutlass", gated=("silu",), capabilities=(9, 10, 12), multiple=8)


@peer("flashinfer.cutlass", PACKAGE, devices=("cuda",), dtypes=("bf16", "fp16"), unsupported=LIMITS)
def cutlass(layer: Layer) -> Forward:
    """Permute, grouped products with the activation in the first one's epilogue, weighed sum fused into the second.

    Prepare copies the first projection, up before gate. Every call pays for sorting and permuting, inside its one
    entry, and allocates its workspace, which the caller of a server may hand over instead. The first call with a new
    number of tokens tries its tactics (``autotune``), as servers do when they come up.

    Ids are made int32 inside the time. Sums with atomics: its answers may differ in the last bits from call to call.
    """
    from flashinfer.autotuner import autotune
    from flashinfer.fused_moe import ActivationType, cutlass_fused_moe

    fc1 = swap_halves(layer.proj_in)
    tuned: set[int] = set()

    def forward(x: Tensor, routing: Routing) -> Tensor:
        y = torch.empty_like(x)
        with contextlib.nullcontext() if len(x) in tuned else autotune(True):
            cutlass_fused_moe(
                input=x,
                token_selected_experts=routing.expert_ids.to(torch.int32),
                token_final_scales=routing.weights,
                fc1_expert_weights=fc1,
                fc2_expert_weights=layer.down,
                output_dtype=x.dtype,
                quant_scales=None,
                output=y,
                activation_type=ActivationType.Swiglu,
            )
        tuned.add(len(x))
        return y

    return forward
