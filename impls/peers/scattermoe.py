"""ScatterMoE: Triton kernels that gather and scatter while they multiply (Tan et al. 2024).

Written against version 0.3.0 (scattermoe/mlp.py, parallel_experts.py, kernels/ops.py at 47b5e15): its ``GLUMLP`` and
``MLP`` call ``flatten_sort_count`` and ``parallel_linear`` the way it is done here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impls._interpreter import untimed
from impls.peers._limits import Limits
from impls.peers._package import Package, peer

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Forward, Layer, Routing

PACKAGE = Package(
    "scattermoe",
    "pip install git+https://github.com/shawntan/scattermoe",
    oldest="0.3",
    below="0.4",
    also="an NVIDIA GPU",
)
EVERY_ACTIVATION = ("silu", "gelu", "relu", "clamped_swiglu")
LIMITS = Limits(
    "scattermoe",
    gated=EVERY_ACTIVATION,
    plain=EVERY_ACTIVATION[:3],
    bias=True,
    refuses=(("graph", "it counts tokens with bincount, which waits for the host"),),
    interpreted=True,
)


@peer(
    "scattermoe",
    PACKAGE,
    devices=("cpu", "cuda"),
    passes=("forward", "training"),
    dtypes=("bf16", "fp16"),
    unsupported=LIMITS,
    untimed=untimed,
)
def scattermoe(layer: Layer) -> Forward:
    """Sort slots by expert; two scattered products, the first gathers its rows, the second writes them to their slots.

    Nothing is copied in prepare: its experts lie as the layer's do. Every call pays for the sort and the counts. The
    activation is torch's, as it is in its own MLP, and so is the weighed sum over a token's slots, one small batched
    product in x's dtype, to which the weights are rounded.

    fp32 is left out: its products run in TF32 there, beyond what a check of fp32 allows.
    """
    from scattermoe import flatten_sort_count, parallel_linear

    experts = layer.shape.experts
    proj_in, down = layer.proj_in.mT, layer.down.mT  # (E, in, out), views

    def forward(x: Tensor, routing: Routing) -> Tensor:
        planned = flatten_sort_count(routing.expert_ids, num_experts=experts)
        k = routing.expert_ids.shape[1]
        hidden = parallel_linear(x, proj_in, k, *planned, expert_biases=layer.proj_in_bias, grouped_out=True)
        gates = routing.weights.to(x.dtype)
        y: Tensor = parallel_linear(
            layer.activate(hidden), down, 1, *planned, expert_biases=layer.down_bias, gates=gates, grouped_in=True
        )
        return y

    return forward
