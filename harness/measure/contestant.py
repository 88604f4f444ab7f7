"""A contestant: one implementation, prepared for one case, ready to be called with inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.layer.contract import Routing
from harness.layer.inputs import Inputs, dense_routing, router_logits
from harness.layer.routers import route
from harness.measure.executions import execute_as
from harness.records.record import Chosen

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.layer.contract import Implementation
    from harness.layer.weights import Weights
    from harness.measure.executions import Compute

Outputs = dict[str, Tensor]
"""``y`` (T, H), and in training a gradient under the name of what it belongs to."""


class ContractError(Exception):
    """An implementation returned something that is not what the contract asks for."""


@dataclass(frozen=True)
class Call:
    """One call's work, with everything that is not the implementation's done beforehand. Calling it is what is timed.

    ``leaves`` are what gradients are asked for, by name; empty in a forward pass.
    """

    compute: Compute
    inputs: Inputs
    leaves: dict[str, Tensor]

    def __call__(self) -> tuple[Tensor, ...]:
        """Run forward, and backward in training; return y and the gradients in the order of ``leaves``.

        Raises
        ------
        ContractError
            in training, when y is no tensor.
        """
        if not self.leaves:
            with torch.no_grad():
                return (self.compute(self.inputs),)
        y = self.forward_only()
        return (y, *self.backward(y))

    def forward_only(self) -> Tensor:
        """Run the first half of a training call, keeping what backward needs."""
        with torch.enable_grad():
            return self.compute(self.inputs)

    def backward(self, y: Tensor) -> tuple[Tensor, ...]:
        """Run the second half; an input that y does not depend on has a gradient of None.

        Raises
        ------
        ContractError
            when y is no tensor.
        """
        if not isinstance(y, Tensor):
            raise ContractError(_not_a_tensor(y))
        return torch.autograd.grad(y, list(self.leaves.values()), self.inputs.dy, allow_unused=True)

    def outputs(self, results: tuple[Tensor | None, ...]) -> Outputs:
        """Name the call's results and hold y against the contract; a missing gradient is zero.

        Raises
        ------
        ContractError
            for a wrong type, shape, dtype or device.
        """
        y = results[0]
        check_contract(y, self.inputs.x)
        assert y is not None
        named = {"y": y.detach()}
        for (name, leaf), gradient in zip(self.leaves.items(), results[1:], strict=True):
            named[name] = torch.zeros_like(leaf) if gradient is None else gradient
        return named


class Contestant:
    """An implementation prepared for a case and wrapped by the case's execution.

    The execution takes in all that is timed: in scope ``layer`` router and shared experts too.
    """

    def __init__(self, implementation: Implementation, weights: Weights, case: Case) -> None:
        self.implementation = implementation
        self.weights = weights
        self.case = case
        for parameter in weights.parameters().values():
            parameter.requires_grad_(case.pass_ == "training")
        self._forward = implementation.prepare(weights.layer)
        prepared: object = self._forward  # somebody's, and no type checker has seen it
        if not callable(prepared):
            found = type(prepared).__name__
            raise ContractError(f"prepare returned {found}, the contract asks for a function of x and routing")
        self._executed = execute_as(case, self.compute)

    @property
    def name(self) -> str:
        """The implementation's name."""
        return self.implementation.name

    @property
    def is_baseline(self) -> bool:
        """Whether this is the dense baseline, which computes a function of its own."""
        return self.implementation.family == "dense"

    def prepare_again(self) -> object:
        """Prepare the same layer once more, for whoever wants to know what that takes."""
        return self.implementation.prepare(self.weights.layer)

    def configuration(self) -> Chosen | None:
        """With which configuration it runs, if it tells.

        Raises
        ------
        ContractError
            when what it tells is no ``Chosen``.
        """
        tells = getattr(self._forward, "chosen", None)
        found = tells(self.case) if callable(tells) else None
        if found is not None and not isinstance(found, Chosen):
            raise ContractError(f"chosen returned {type(found).__name__}, the contract asks for a Chosen or None")
        return found

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights it computes with: all there are, or the baseline's k of E experts and no router."""
        if not self.is_baseline:
            return self.weights.nbytes
        shape = self.case.shape
        experts = sum(tensor.nbytes for tensor in self.weights.layer.parameters().values())
        shared = self.weights.nbytes - experts - self.weights.router.nbytes
        return experts * shape.active_experts // shape.experts + shared

    def compute(self, inputs: Inputs) -> Tensor:
        """Compute y (T, H) in the case's scope; in scope ``layer`` with router and shared experts."""
        if self.case.scope == "experts":
            return self._forward(inputs.x, inputs.routing)
        y = self._forward(inputs.x, inputs.routing if self.is_baseline else self._route(inputs))
        return y if self.weights.shared is None else y + self.weights.shared(inputs.x)

    def _route(self, inputs: Inputs) -> Routing:
        logits = router_logits(inputs.x, self.weights.router)
        return route(logits, self.case.shape, selection_bias=inputs.selection_bias, noise=inputs.router_noise)

    def call(self, inputs: Inputs, *, plain: bool = False) -> Call:
        """Bind inputs; in training with fresh leaves for x and the routing weights, so that nothing accumulates.

        ``plain`` leaves the case's execution out: poison must not be captured in a graph, nor memory be hidden by one.
        """
        compute = self.compute if plain else self._executed
        if self.is_baseline:
            inputs = for_baseline(inputs, self.case)
        elif self.case.scope == "layer":  # the router decides: what the traffic would choose is not handed over
            inputs = replace(inputs, routing=Routing(inputs.routing.expert_ids[:0], inputs.routing.weights[:0]))
        if self.case.pass_ == "forward":
            return Call(compute, inputs, {})
        x, routing = inputs.x.detach().requires_grad_(), inputs.routing
        leaves = {"x": x, **self.weights.layer.parameters()}
        if self.case.scope == "layer":
            leaves |= self.weights.parameters()
        elif not self.is_baseline:
            routing = Routing(routing.expert_ids, routing.weights.detach().requires_grad_())
            leaves["weights"] = routing.weights
        if self.is_baseline:
            leaves.pop("router", None)
        return Call(compute, replace(inputs, x=x, routing=routing), leaves)


def for_baseline(inputs: Inputs, case: Case) -> Inputs:
    """Give the dense baseline its own routing, and no router."""
    own = dense_routing(len(inputs.x), case.shape, inputs.x.device)
    return Inputs(inputs.x, own, inputs.dy, None, None)


def check_contract(y: object, x: Tensor) -> None:
    """Raise ``ContractError`` unless y is a plain tensor of the shape, dtype and device of x (T, H)."""
    if type(y) is not Tensor:
        raise ContractError(_not_a_tensor(y))
    for word, got, asked in (
        ("shape", tuple(y.shape), tuple(x.shape)),
        ("dtype", y.dtype, x.dtype),
        ("device", y.device, x.device),
    ):
        if got != asked:
            raise ContractError(f"returned {word} {got}, the contract asks for {asked}")


def check_own_memory(y: Tensor, inputs: Inputs, weights: Weights) -> None:
    """Raise ``ContractError`` when y lies in memory that the implementation was only lent."""
    lent = {"x": inputs.x, "dy": inputs.dy, "routing weights": inputs.routing.weights, **weights.parameters()}
    address = y.untyped_storage().data_ptr()
    for name, tensor in lent.items():
        if tensor is not None and tensor.untyped_storage().data_ptr() == address != 0:
            raise ContractError(f"returned the memory of {name}, the contract asks for a tensor of its own")


def _not_a_tensor(y: object) -> str:
    return f"returned {type(y).__name__}, the contract asks for a torch.Tensor"
