"""Family soft: every expert on every token, as two plain matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from harness import Forward, Layer, Routing, implementation
from impls._dispatch import dense_weights, side_by_side

if TYPE_CHECKING:
    from torch import Tensor


@implementation("soft", family="soft", passes=("forward", "training"))
def soft(layer: Layer) -> Forward:
    """Run all E experts as one FFN of width E*I, its hidden units weighed by the routing; nothing is gathered.

    The dense mixture of Jacobs (1991) needs exactly this. For a sparse routing it is right too, since weights scattered
    into (T, E) are zero elsewhere, and computes E/k times what is wanted: ``6 * T*E*H*I`` FLOPs for gated experts.

    Writes ``T*E * 5I * s`` bytes for gated experts, s bytes an element (gate and up, activated gate, product, weighed
    product), all experts at once: at large T it runs out of memory. Weighing comes before the second product, whose
    float32 accumulator then sums over a token's experts as well.

    ``down`` is needed as (H, E*I), ``E*H*I*s`` bytes: copied once in prepare for a forward pass, and at every call in
    training, where weights change at every step. Wins where all experts are hit anyway and reading them, not
    arithmetic, is the limit; never waits for the device.
    """
    experts, width = layer.proj_in.shape[:2]
    proj_in = layer.proj_in.flatten(0, 1)
    bias_in = None if layer.proj_in_bias is None else layer.proj_in_bias.flatten()
    prepared = None if layer.down.requires_grad else side_by_side(layer.down)

    def forward(x: Tensor, routing: Routing) -> Tensor:
        down = side_by_side(layer.down) if prepared is None else prepared
        weights = dense_weights(routing, experts).to(x.dtype)
        hidden = layer.activate(F.linear(x, proj_in, bias_in).view(len(x), experts, width))
        y = F.linear((hidden * weights[:, :, None]).flatten(1), down)
        return y if layer.down_bias is None else y.addmm(weights, layer.down_bias)

    return forward
