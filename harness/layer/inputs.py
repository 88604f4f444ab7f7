"""What one call is given: tokens and their routing, fresh for every draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.layer.contract import Routing
from harness.layer.replay import replayed_routing
from harness.layer.routers import route
from harness.layer.traffic import make_logits, router_noise, selection_bias
from harness.layer.weights import TORCH_DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cases.case import Case
    from harness.cases.shape import Shape
    from harness.layer.weights import Weights


@dataclass(frozen=True)
class Inputs:
    """One call's arguments. x (T, H); dy (T, H) is the gradient that arrives from above, None in a forward pass.

    ``selection_bias`` (E,) and ``router_noise`` (T, E) are what the router adds to its logits in scope ``layer``.
    """

    x: Tensor
    routing: Routing
    dy: Tensor | None
    selection_bias: Tensor | None
    router_noise: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name for people; None left out."""
        named = {
            "x": self.x,
            "expert_ids": self.routing.expert_ids,
            "routing weights": self.routing.weights,
            "dy": self.dy,
            "selection bias": self.selection_bias,
            "router noise": self.router_noise,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def mapped(self, change: Callable[[str, Tensor], Tensor]) -> Inputs:
        """Return inputs of other tensors: what ``change`` makes of each name and tensor."""
        made = {name: change(name, tensor) for name, tensor in self.tensors().items()}
        routing = Routing(made["expert_ids"], made["routing weights"])
        return Inputs(made["x"], routing, made.get("dy"), made.get("selection bias"), made.get("router noise"))

    def clone(self) -> Inputs:
        """Copy every tensor."""
        return self.mapped(lambda _name, tensor: tensor.clone())


def make_inputs(case: Case, weights: Weights, draw: int) -> Inputs:
    """Make draw number ``draw`` of a case's inputs: the same for every implementation, different for every draw.

    x ~ N(0, 1). In scope ``experts`` the routing follows from the traffic's logits, or is a recorded one, ids and
    weights as they are. In scope ``layer`` the router must see that traffic in x itself, so x is moved by the smallest
    step that makes ``x @ router.T`` equal those logits (least squares; exact when H >= E, up to the rounding of x to
    the case's dtype).
    """
    shape, traffic, device = case.shape, case.traffic, case.device
    dtype = TORCH_DTYPES[case.dtype]
    generator = torch.Generator(device).manual_seed((traffic.seed << 20) + draw + 1)
    x = torch.randn(traffic.tokens, shape.hidden, generator=generator, device=device)
    logits = make_logits(shape, traffic, draw=draw, device=device)
    bias = selection_bias(shape, traffic.seed, device)
    noise = router_noise(shape, traffic, draw, device)
    if case.scope == "layer":
        x = _move_to_logits(x, weights.router, logits)
    x = x.to(dtype)
    if case.scope == "layer":
        logits = router_logits(x, weights.router)
    dy = None
    if case.pass_ == "training":
        dy = torch.randn(x.shape, generator=generator, device=device).to(dtype)
    if traffic.replay and case.scope == "experts":
        return Inputs(x, replayed_routing(traffic, draw, logits), dy, bias, noise)
    with torch.no_grad():
        routing = route(logits, shape, selection_bias=bias, noise=noise)
    return Inputs(x, routing, dy, bias, noise)


def router_logits(x: Tensor, router: Tensor) -> Tensor:
    """X (T, H) and the router matrix (E, H) -> logits (T, E), in float32 or wider: bf16 flips 2-4 % of choices."""
    return F.linear(x.to(router.dtype), router)


def dense_routing(tokens: int, shape: Shape, device: str | torch.device) -> Routing:
    """Send every token through experts 0..k-1 with weight 1: a plain FFN of width k*I, the dense baseline's routing."""
    k = shape.active_experts
    ids = torch.arange(k, device=device).expand(tokens, k).contiguous()
    return Routing(ids, torch.ones(tokens, k, device=device))


def _move_to_logits(x: Tensor, router: Tensor, logits: Tensor) -> Tensor:
    """X plus W^T (W W^T + ridge)^-1 (logits - W x): the least-squares step, in float64; the ridge serves H < E."""
    W = router.double()
    gram = W @ W.T
    ridge = 1e-9 * gram.diagonal().mean() * torch.eye(len(W), dtype=W.dtype, device=W.device)
    missing = (logits - F.linear(x, router)).double()
    step: Tensor = torch.linalg.solve(gram + ridge, missing.T).T @ W
    return x + step.to(x.dtype)
