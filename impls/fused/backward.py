"""The backward pass: what is computed in which order, and what is given up before the next allocation.

From dy (T, H), x (T, H), the pre-activation z (N, Z) and the routing weights w (T, K); Z is 2I gated, I plain, and each
row n of the N = T*K has a token t(n), an expert e(n) and a weight w(n):

1. da = dy[t] @ down[e]; a and a' from z; dz = w * da * a'; the gradient of w is da . a (+ dy . down_bias)
2. the gradient of x is the sum over a token's rows of dz @ proj_in[e]
3. that of down[e] is dy[t]^T @ (w * a) over e's rows; of its bias, the column sums of w * dy[t]
4. that of proj_in[e] is dz^T @ x[t] over e's rows; of its bias, the column sums of dz

Steps whose result nobody asked for are left out. At its peak it holds, beside what it was given and what it returns,
z, dz and w * a (5NI elements where gated) or dz, w * a and the rows of step 2 (3NI + NH).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from impls.fused.combine import combine
from impls.fused.grad_hidden import Hidden, grad_hidden
from impls.fused.grad_rows import grad_input, grad_routing
from impls.fused.grad_weights import grad_bias, grad_weight

if TYPE_CHECKING:
    from impls.fused.configuration import Configuration, Tiles
    from impls.fused.placement import Placement
    from impls.fused.prefill import Activation


class Needs(NamedTuple):
    """Which gradients are asked for."""

    x: bool
    weights: bool
    proj_in: bool
    down: bool
    proj_in_bias: bool
    down_bias: bool


class Gradients(NamedTuple):
    """What a backward pass found; None for what nobody asked for."""

    x: Tensor | None
    weights: Tensor | None
    proj_in: Tensor | None
    down: Tensor | None
    proj_in_bias: Tensor | None
    down_bias: Tensor | None


@dataclass
class Saved:
    """What the forward pass left behind. ``z`` is given up as soon as it has been read."""

    x: Tensor
    weights: Tensor
    proj_in: Tensor
    down: Tensor
    down_bias: Tensor | None
    z: Tensor | None
    placement: Placement
    activation: Activation
    configuration: Configuration


def backward(dy: Tensor, saved: Saved, needs: Needs) -> Gradients:
    """Compute the gradients that are asked for, in their tensors' dtypes."""
    if not len(saved.placement.slots):
        return _zeros(saved, needs)
    dy, placement, tiles = dy.contiguous(), saved.placement, saved.configuration
    assert tiles.grad_hidden is not None, "a training configuration has tiles for the backward kernels"
    assert tiles.grad_input is not None
    assert tiles.grad_weight is not None
    dz, weighted, shares = _first_step(dy, saved, needs, tiles.grad_hidden)
    dweights = dx = down = proj_in = proj_in_bias = None
    if shares is not None:
        dweights = grad_routing(shares, dy, saved.down_bias, saved.weights, placement, tiles.grad_hidden.block_m)
        del shares
    if needs.x:
        assert dz is not None
        dx = combine(grad_input(dz, saved.proj_in, placement, tiles.grad_input), placement.rows, None, dy.dtype)
    if weighted is not None:
        down = grad_weight(dy, weighted, placement, tiles.grad_weight, gather_left=True)
        del weighted
    if needs.proj_in:
        assert dz is not None
        proj_in = grad_weight(dz, saved.x, placement, tiles.grad_weight, gather_left=False)
    if needs.proj_in_bias:
        assert dz is not None
        proj_in_bias = grad_bias(dz, placement)
    down_bias = grad_bias(dy, placement, saved.weights) if needs.down_bias else None
    return Gradients(dx, dweights, proj_in, down, proj_in_bias, down_bias)


def _first_step(dy: Tensor, saved: Saved, needs: Needs, tiles: Tiles) -> Hidden:
    """Step 1, and z given up."""
    z, saved.z = saved.z, None
    wants_dz = needs.x or needs.proj_in or needs.proj_in_bias
    if not (wants_dz or needs.down or needs.weights):
        return Hidden(None, None, None)
    assert z is not None, "a backward pass goes over what was saved once"
    wanted = {"dz": wants_dz, "weighted": needs.down, "shares": needs.weights}
    return grad_hidden(dy, saved.down, z, saved.weights, saved.placement, saved.activation, tiles, **wanted)


def _zeros(saved: Saved, needs: Needs) -> Gradients:
    """Gradients of a call without slots."""
    x, (experts, width, hidden) = saved.x, saved.proj_in.shape

    def zeros(*size: int) -> Tensor:
        return torch.zeros(size, dtype=x.dtype, device=x.device)

    return Gradients(
        x=torch.zeros_like(x) if needs.x else None,
        weights=torch.zeros_like(saved.weights) if needs.weights else None,
        proj_in=torch.zeros_like(saved.proj_in) if needs.proj_in else None,
        down=torch.zeros_like(saved.down) if needs.down else None,
        proj_in_bias=zeros(experts, width) if needs.proj_in_bias else None,
        down_bias=zeros(experts, hidden) if needs.down_bias else None,
    )
