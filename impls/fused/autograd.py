"""The training pass as one differentiable function: prefill's forward kernels, the backward ones, what lies between.

Between them it keeps x (T, H), the routing weights, the layer's own weights, the placement and the pre-activation z
(N, 2I or I): no activated hidden units, no gathered tokens and no expert outputs, so nothing of N * H elements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch.autograd import Function
from torch.autograd.function import once_differentiable

from harness import Routing
from impls.fused.backward import Needs, Saved, backward
from impls.fused.combine import combine
from impls.fused.placement import Placement, place_for
from impls.fused.prefill import Activation, project_in, project_out

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Layer
    from impls.fused.configuration import Configuration


def train(x: Tensor, routing: Routing, layer: Layer, configuration: Configuration) -> Tensor:
    """Compute the layer for x (T, H) with gradients for x, the routing weights and all of the layer's parameters.

    The gradients themselves cannot be differentiated again: autograd says so when asked.
    """
    activation = Activation(layer.shape.activation, layer.shape.gated)
    given = (x, routing.weights, layer.proj_in, layer.down, layer.proj_in_bias, layer.down_bias)
    inputs = (None if tensor is None else tensor.contiguous() for tensor in given)
    y: Tensor = _Experts.apply(*inputs, routing.expert_ids, activation, configuration)
    return y


class _Context(Protocol):
    activation: Activation
    configuration: Configuration
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def maybe_clear_saved_tensors(self) -> None: ...


class _Experts(Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        weights: Tensor,
        proj_in: Tensor,
        down: Tensor,
        proj_in_bias: Tensor | None,
        down_bias: Tensor | None,
        expert_ids: Tensor,
        activation: Activation,
        configuration: Configuration,
    ) -> Tensor:
        placement = place_for(Routing(expert_ids, weights), len(down), configuration)
        hidden, z = project_in(
            x, proj_in, proj_in_bias, placement, activation, configuration.first, keep_z=any(ctx.needs_input_grad)
        )
        out = project_out(hidden, down, down_bias, placement, configuration.second)
        del hidden
        ctx.activation, ctx.configuration = activation, configuration
        ctx.save_for_backward(x, weights, proj_in, down, down_bias, z, *placement)
        return combine(out, placement.rows, weights, x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, proj_in, down, down_bias, z, *placement = ctx.saved_tensors
        # Unless the graph is retained, z is then this call's alone, and gone once it has been read.
        ctx.maybe_clear_saved_tensors()
        saved = Saved(x, weights, proj_in, down, down_bias, z, Placement(*placement), ctx.activation, ctx.configuration)
        del z
        found = backward(dy, saved, Needs(*ctx.needs_input_grad[:6]))
        return (*found, None, None, None)
