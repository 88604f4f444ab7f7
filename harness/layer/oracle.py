"""The layer computed plainly: in float64 the oracle, in a case's own dtype the reference that sets the tolerance.

One expert at a time, so that the float64 copy of a layer never has to fit into memory. The gradients are autograd's,
one expert at a time as well; only the chain through the router is joined by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.layer.contract import Routing
from harness.layer.inputs import router_logits
from harness.layer.routers import route, routing_margin

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.layer.contract import Layer
    from harness.layer.inputs import Inputs
    from harness.layer.weights import SharedExperts, Weights

AMBIGUITY = 4.0
"""A token is ambiguous when its routing margin is below this many float32 roundings of its largest logit."""
BLOCK_ROWS = 256
"""Rows of a weight widened at once."""
PER_TOKEN = ("y", "x", "weights")
"""What a call returns token by token; all other gradients are sums over tokens."""


@dataclass(frozen=True)
class Answer:
    """What a call should return. ``tensors`` holds ``y`` (T, H) and, in training, a gradient under its input's name.

    ``ambiguous`` (T,) marks tokens whose choice of experts rounding may flip in scope ``layer``; None elsewhere.
    """

    tensors: dict[str, Tensor]
    ambiguous: Tensor | None = None


def solve(
    weights: Weights,
    case: Case,
    inputs: Inputs,
    dtype: torch.dtype,
    rows: Tensor | None = None,
    *,
    baseline: bool = False,
) -> Answer:
    """Compute a case's layer in ``dtype``; the router in float64 when ``dtype`` is, otherwise in float32.

    ``rows`` limits the answer to some tokens and to what is theirs alone (``PER_TOKEN``), since every token moves the
    gradients of the layer's weights. ``baseline`` is for the dense FFN, which has a fixed routing
    (in ``inputs``) and no router.
    """
    routed = _route(weights, case, inputs, dtype) if case.scope == "layer" and not baseline else None
    routing = routed.plain if routed else inputs.routing
    x, routing = _take(inputs.x, routing, rows)
    x = x.to(dtype)
    shared = _shared_in(weights.shared, dtype) if weights.shared and case.scope == "layer" else None
    ambiguous = None if routed is None else routed.ambiguous if rows is None else routed.ambiguous[rows]
    if case.pass_ == "forward":
        y = experts_forward(weights.layer, x, routing)
        return Answer({"y": y if shared is None else y + shared(x)}, ambiguous)
    assert inputs.dy is not None
    dy = (inputs.dy if rows is None else inputs.dy[rows]).to(dtype)
    y, gradients = experts_training(weights.layer, x, routing, dy, parameters=rows is None)
    if routed:
        dx, gradients["router"] = routed.backward(gradients["weights"], rows)
        gradients["x"] = gradients["x"] + dx.to(dtype)
    if routed or baseline:
        del gradients["weights"]
    if shared:
        y, gradients = _add_shared(shared, x, dy, y, gradients)
    found = {"y": y, **gradients}
    return Answer({name: found[name] for name in found if rows is None or name in PER_TOKEN}, ambiguous)


@dataclass(frozen=True)
class _Routed:
    """The oracle's own routing: what it chose, how surely, and the way back from its weights to x and the router."""

    routing: Routing
    ambiguous: Tensor
    leaves: tuple[Tensor, Tensor]

    @property
    def plain(self) -> Routing:
        return Routing(self.routing.expert_ids, self.routing.weights.detach())

    def backward(self, dweights: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and of the router; of ``rows`` only, where just those have a gradient to give."""
        upstream = torch.zeros_like(self.routing.weights)
        covered = slice(None) if rows is None else rows
        upstream[covered] = dweights.to(upstream.dtype)
        dx, drouter = _gradients(self.routing.weights, self.leaves, upstream)
        return dx[covered], drouter


def _route(weights: Weights, case: Case, inputs: Inputs, dtype: torch.dtype) -> _Routed:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, router = inputs.x.detach().to(wide).requires_grad_(), weights.router.detach().to(wide).requires_grad_()
    bias = None if inputs.selection_bias is None else inputs.selection_bias.to(wide)
    noise = None if inputs.router_noise is None else inputs.router_noise.to(wide)
    with torch.enable_grad():
        logits = router_logits(x, router)
        routing = route(logits, case.shape, selection_bias=bias, noise=noise)
    noisy = logits.detach() if noise is None else logits.detach() + noise
    tau = AMBIGUITY * noisy.abs().amax(-1) * torch.finfo(torch.float32).eps
    ambiguous = routing_margin(noisy, case.shape, selection_bias=bias) <= tau
    return _Routed(routing, ambiguous, (x, router))


def experts_forward(layer: Layer, x: Tensor, routing: Routing) -> Tensor:
    """Sum over a token's experts of weight * expert(x): x (T, H) -> y (T, H), computed in x's dtype."""
    y = torch.zeros_like(x)
    bias_in, bias_out = layer.proj_in_bias, layer.down_bias
    with torch.no_grad():
        for expert, rows, slots in _assignments(routing, layer.shape.experts):
            hidden = _linear(x[rows], layer.proj_in[expert], None if bias_in is None else bias_in[expert])
            out = _linear(layer.activate(hidden), layer.down[expert], None if bias_out is None else bias_out[expert])
            y.index_add_(0, rows, out * routing.weights[rows, slots, None].to(x.dtype))
    return y


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear in x's dtype. A wider copy of the weight is made block by block, which stays in a CPU's cache."""
    if weight.dtype == x.dtype:
        return torch.nn.functional.linear(x, weight, bias)
    step = BLOCK_ROWS if x.device.type == "cpu" else len(weight)
    out = torch.cat([torch.nn.functional.linear(x, block.to(x.dtype)) for block in weight.split(step)], dim=-1)
    return out if bias is None else out + bias.to(x.dtype)


def experts_training(
    layer: Layer, x: Tensor, routing: Routing, dy: Tensor, *, parameters: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward and backward: y and the gradients of x, the routing weights and, unless not asked for, every parameter.

    Parameter gradients of float64 runs on 16-bit layers are kept in float32: its rounding is far below what is judged.
    """
    y, dx = torch.zeros_like(x), torch.zeros_like(x)
    weights = routing.weights.detach().to(x.dtype)
    dweights = torch.zeros_like(weights)
    keep = torch.float32 if x.dtype == torch.float64 and layer.down.dtype != torch.float32 else x.dtype
    wanted = layer.parameters() if parameters else {}
    gradients = {name: torch.zeros_like(p, dtype=keep, requires_grad=False) for name, p in wanted.items()}
    for expert, rows, slots in _assignments(routing, layer.shape.experts):
        parts = _expert_parameters(layer, expert, x.dtype)
        leaves = {name: parts[name].requires_grad_() for name in gradients}
        x_rows = x[rows].requires_grad_()
        gate = weights[rows, slots, None].requires_grad_()
        with torch.enable_grad():
            out = _expert(layer, parts, x_rows) * gate
        found = _gradients(out, (x_rows, gate, *leaves.values()), dy[rows])
        y.index_add_(0, rows, out.detach())
        dx.index_add_(0, rows, found[0])
        dweights[rows, slots] = found[1].squeeze(-1)
        for name, gradient in zip(leaves, found[2:], strict=True):
            gradients[name][expert] = gradient.to(keep)
    return y, {"x": dx, "weights": dweights, **gradients}


def _assignments(routing: Routing, experts: int) -> list[tuple[int, Tensor, Tensor]]:
    """Expert, its tokens and the slots they chose it in, for every expert that got a token."""
    found = []
    for expert in torch.unique(routing.expert_ids).tolist():
        if expert < experts:
            rows, slots = torch.where(routing.expert_ids == expert)
            found.append((expert, rows, slots))
    return found


def _expert_parameters(layer: Layer, expert: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: p.detach()[expert].to(dtype, copy=True) for name, p in layer.parameters().items()}


def _expert(layer: Layer, parts: dict[str, Tensor], x: Tensor) -> Tensor:
    """One expert on its tokens: (n, H) -> (n, H)."""
    first = parts["gate_up"] if layer.shape.gated else parts["up"]
    bias = parts.get("gate_up_bias", parts.get("up_bias"))
    hidden = layer.activate(torch.nn.functional.linear(x, first, bias))
    return torch.nn.functional.linear(hidden, parts["down"], parts.get("down_bias"))


def _take(x: Tensor, routing: Routing, rows: Tensor | None) -> tuple[Tensor, Routing]:
    if rows is None:
        return x.detach(), routing
    return x.detach()[rows], Routing(routing.expert_ids[rows], routing.weights[rows])


def _shared_in(shared: SharedExperts, dtype: torch.dtype) -> SharedExperts:
    gate = None if shared.gate is None else shared.gate.detach().to(dtype, copy=True)
    proj_in, down = (p.detach().to(dtype, copy=True) for p in (shared.proj_in, shared.down))
    return type(shared)(shared.shape, proj_in, down, gate)


def _add_shared(
    shared: SharedExperts, x: Tensor, dy: Tensor, y: Tensor, gradients: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: p.requires_grad_() for name, p in shared.parameters().items()}
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        out = shared(x)
    dx, *found = _gradients(out, (x, *leaves.values()), dy)
    gradients = {**gradients, "x": gradients["x"] + dx, **dict(zip(leaves, found, strict=True))}
    return y + out.detach(), gradients


def _gradients(output: Tensor, inputs: tuple[Tensor, ...], upstream: Tensor) -> tuple[Tensor, ...]:
    """Autograd's gradients, zero for an input the output does not depend on (a router that chose all experts, say)."""
    if not output.requires_grad:
        return tuple(torch.zeros_like(i) for i in inputs)
    return torch.autograd.grad(output, inputs, upstream, allow_unused=True, materialize_grads=True)
