"""The prepared layer: which configuration a call runs with, and which of the kernels' ways through."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from harness import Routing
from impls.fused.autograd import train
from impls.fused.decode import decode
from impls.fused.prefill import prefill
from impls.fused.tuned import Selection, choose

if TYPE_CHECKING:
    from harness import Case, Chosen, Layer
    from impls.fused.configuration import Configuration

DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}

_numbers = itertools.count()
_prepared: WeakValueDictionary[int, FusedForward] = WeakValueDictionary()


class FusedForward:
    """A layer ready to be called; with ``fixed``, whatever was tuned is left aside."""

    def __init__(self, layer: Layer, fixed: Configuration | None = None) -> None:
        self.layer = layer
        self.fixed = fixed
        self.number = next(_numbers)
        self._known: dict[tuple[int, torch.dtype, torch.device, str], Configuration] = {}
        _prepared[self.number] = self

    def __call__(self, x: Tensor, routing: Routing) -> Tensor:
        """Compute y (T, H) for x (T, H)."""
        y: Tensor
        if self._needs_gradients(x, routing):
            y = self.train(x, routing)
        elif torch.compiler.is_compiling():
            y = torch.ops.moebench.fused(x, routing.expert_ids, routing.weights, self.number)
        else:
            y = self.infer(x, routing)
        return y

    def infer(self, x: Tensor, routing: Routing) -> Tensor:
        """Compute y without a graph for gradients."""
        if not routing.expert_ids.numel():
            return torch.zeros(x.shape, dtype=x.dtype, device=x.device)
        configuration = self._configuration(x, "forward")
        routing = Routing(routing.expert_ids.contiguous(), routing.weights.contiguous())
        compute = decode if configuration.regime == "decode" else prefill
        with _on_device(x):
            return compute(x, routing, self.layer, configuration)

    @torch.compiler.disable
    def train(self, x: Tensor, routing: Routing) -> Tensor:
        """Compute y with gradients; under torch.compile a call of its own between two graphs."""
        with _on_device(x):
            return train(x, routing, self.layer, self._configuration(x, "training"))

    def chosen(self, case: Case) -> Chosen:
        """Say with which configuration a case runs; a record keeps it."""
        if self.fixed is not None:
            return Selection(self.fixed, tuned=False, source="given by the caller").told()
        return choose(case.shape, case.traffic.tokens, case.dtype, case.pass_, case.device).told()

    def _needs_gradients(self, x: Tensor, routing: Routing) -> bool:
        layer = self.layer
        given = (x, routing.weights, layer.proj_in, layer.down, layer.proj_in_bias, layer.down_bias)
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given if tensor is not None)

    def _configuration(self, x: Tensor, pass_: str) -> Configuration:
        if self.fixed is not None:
            return self.fixed
        key = (len(x), x.dtype, x.device, pass_)
        if key not in self._known:
            found = choose(self.layer.shape, len(x), DTYPES[x.dtype], pass_, str(x.device))
            self._known[key] = found.configuration
        return self._known[key]


def _on_device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be x's."""
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return contextlib.nullcontext()


@torch.library.custom_op(
    "moebench::fused", mutates_args=(), schema="(Tensor x, Tensor ids, Tensor weights, int number) -> Tensor"
)
def compiled(x: Tensor, ids: Tensor, weights: Tensor, number: int) -> Tensor:
    """A prepared layer's forward as one operator, which torch.compile puts into its graph as it is."""  # noqa: D401
    return _prepared[number].infer(x, Routing(ids, weights))


@compiled.register_fake
def _(x: Tensor, ids: Tensor, weights: Tensor, number: int) -> Tensor:  # noqa: ARG001 (the operator's arguments)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
