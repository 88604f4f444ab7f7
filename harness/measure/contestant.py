"""A contestant: one implementation, prepared for one case, ready to be called with inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.layer.inputs import Inputs, dense_routing, router_logits
from harness.layer.routers import route
from harness.measure.executions import execute_as

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.layer.contract import Forward, Implementation, Routing
    from harness.layer.weights import Weights

Outputs = dict[str, Tensor]
"""``y`` (T, H), and in training a gradient under the name of what it belongs to."""


class ContractError(Exception):
    """An implementation returned something that is not what the contract asks for."""


@dataclass(frozen=True)
class Call:
    """One call's work, with everything that is not the implementation's done beforehand. Calling it is what is timed."""

    contestant: Contestant
    inputs: Inputs
    leaves: dict[str, Tensor]

    def __call__(self) -> tuple[Tensor, ...]:
        """Run forward, and backward in training; return y and the gradients in the order of ``leaves``."""
        if not self.leaves:
            with torch.no_grad():
                return (self.contestant.layer_forward(self.inputs),)
        with torch.enable_grad():
            y = self.contestant.layer_forward(self.inputs)
        return (y, *self.backward(y))

    def forward_only(self) -> Tensor:
        """Run the first half of a training call, keeping what backward needs."""
        with torch.enable_grad():
            return self.contestant.layer_forward(self.inputs)

    def backward(self, y: Tensor) -> tuple[Tensor, ...]:
        """Run the second half; an input that y does not depend on has a gradient of None."""
        return torch.autograd.grad(y, list(self.leaves.values()), self.inputs.dy, allow_unused=True)


class Contestant:
    """An implementation prepared for a case. ``forward`` comes from its ``prepare``, wrapped by the case's execution."""

    def __init__(self, implementation: Implementation, weights: Weights, case: Case) -> None:
        self.implementation = implementation
        self.weights = weights
        self.case = case
        for parameter in weights.parameters().values():
            parameter.requires_grad_(case.pass_ == "training")
        self.forward: Forward = execute_as(case, implementation.prepare(weights.layer))

    @property
    def name(self) -> str:
        """The implementation's name."""
        return self.implementation.name

    @property
    def is_baseline(self) -> bool:
        """Whether this is the dense baseline, which computes a function of its own."""
        return self.implementation.family == "dense"

    def inputs_for(self, inputs: Inputs) -> Inputs:
        """What this contestant is checked against: the baseline has a routing of its own, the others the given one."""
        if not self.is_baseline:
            return inputs
        own = dense_routing(len(inputs.x), self.case.shape, inputs.x.device)
        return Inputs(inputs.x, own, inputs.dy, None, None)

    def layer_forward(self, inputs: Inputs) -> Tensor:
        """Compute y (T, H) in the case's scope; in scope ``layer`` with router and shared experts."""
        if self.case.scope == "experts":
            return self.forward(inputs.x, inputs.routing)
        y = self.forward(inputs.x, inputs.routing if self.is_baseline else self._route(inputs))
        return y if self.weights.shared is None else y + self.weights.shared(inputs.x)

    def _route(self, inputs: Inputs) -> Routing:
        logits = router_logits(inputs.x, self.weights.router)
        return route(logits, self.case.shape, selection_bias=inputs.selection_bias, noise=inputs.router_noise)

    def call(self, inputs: Inputs) -> Call:
        """Bind inputs; in training with fresh leaves for x and the routing weights, so that nothing accumulates."""
        inputs = self.inputs_for(inputs)
        if self.case.pass_ == "forward":
            return Call(self, inputs, {})
        x = inputs.x.detach().requires_grad_()
        leaves = {"x": x, **self.weights.layer.parameters()}
        routing = inputs.routing
        if self.case.scope == "layer":
            leaves |= self.weights.parameters()
        elif not self.is_baseline:
            routing = type(routing)(routing.expert_ids, routing.weights.detach().requires_grad_())
            leaves["weights"] = routing.weights
        if self.is_baseline:
            leaves.pop("router", None)
        bound = Inputs(x, routing, inputs.dy, inputs.selection_bias, inputs.router_noise)
        return Call(self, bound, leaves)

    def outputs(self, call: Call, results: tuple[Tensor | None, ...]) -> Outputs:
        """Name a call's results and hold them against the contract; a missing gradient is zero.

        Raises
        ------
        ContractError
            for a wrong type, shape, dtype or device.
        """
        y, x = results[0], call.inputs.x
        if type(y) is not Tensor:
            raise ContractError(f"returned {type(y).__name__}, the contract asks for a torch.Tensor")
        for word, got, asked in (
            ("shape", tuple(y.shape), tuple(x.shape)),
            ("dtype", y.dtype, x.dtype),
            ("device", y.device, x.device),
        ):
            if got != asked:
                raise ContractError(f"returned {word} {got}, the contract asks for {asked}")
        named = {"y": y.detach()}
        for (name, leaf), gradient in zip(call.leaves.items(), results[1:], strict=True):
            named[name] = torch.zeros_like(leaf) if gradient is None else gradient
        return named
