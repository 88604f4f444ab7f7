"""Weights with a seed: N(0, 1/fan_in), never zeros or ones, because data changes the speed of hardware."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.layer.activations import activate
from harness.layer.contract import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cases.case import Case
    from harness.cases.shape import Shape

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BIAS_SCALE = 0.1


@dataclass(frozen=True)
class SharedExperts:
    """The always-on experts, as one FFN of their total width I_sh; ``gate`` (1, H) is their sigmoid gate or None.

    ``proj_in`` is (2 I_sh or I_sh, H), ``down`` (H, I_sh).
    """

    shape: Shape
    proj_in: Tensor
    down: Tensor
    gate: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """X (T, H) -> (T, H)."""
        hidden = activate(F.linear(x, self.proj_in), self.shape.activation, gated=self.shape.gated)
        y = F.linear(hidden, self.down)
        return y if self.gate is None else y * torch.sigmoid(F.linear(x, self.gate))

    def parameters(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        named = {"shared_proj_in": self.proj_in, "shared_down": self.down, "shared_gate": self.gate}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


@dataclass(frozen=True)
class Weights:
    """Everything a case's layer is made of: the routed experts, the router matrix (E, H) in float32, shared experts."""

    layer: Layer
    router: Tensor
    shared: SharedExperts | None

    def parameters(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        shared = self.shared.parameters() if self.shared else {}
        return {**self.layer.parameters(), "router": self.router, **shared}

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.nbytes for tensor in self.parameters().values())

    def serving(self, shape: Shape) -> Weights:
        """Return the same tensors for a shape with another router or top-k (a case of the same ``layer_key``)."""
        shared = replace(self.shared, shape=shape) if self.shared else None
        return Weights(replace(self.layer, shape=shape), self.router, shared)


def make_weights(case: Case) -> Weights:
    """Build the weights of a case from its seed, on its device, in its dtype; the same for every implementation."""
    shape, dtype = case.shape, TORCH_DTYPES[case.dtype]
    generator = torch.Generator(case.device).manual_seed(case.traffic.seed)

    def normal(*size: int, scale: float, dtype: torch.dtype = dtype) -> Tensor:
        empty = torch.empty(size, dtype=dtype, device=case.device)
        return empty.normal_(std=scale, generator=generator)

    E, H, I = shape.experts, shape.hidden, shape.expert_hidden
    width = 2 * I if shape.gated else I
    proj_in = normal(E, width, H, scale=1 / math.sqrt(H))
    proj_in_bias = normal(E, width, scale=BIAS_SCALE) if shape.bias else None
    layer = Layer(
        shape=shape,
        gate_up=proj_in if shape.gated else None,
        up=None if shape.gated else proj_in,
        down=normal(E, H, I, scale=1 / math.sqrt(I)),
        gate_up_bias=proj_in_bias if shape.gated else None,
        up_bias=None if shape.gated else proj_in_bias,
        down_bias=normal(E, H, scale=BIAS_SCALE) if shape.bias else None,
    )
    router = normal(E, H, scale=1 / math.sqrt(H), dtype=torch.float32)
    return Weights(layer, router, _make_shared(shape, normal) if shape.shared_experts else None)


def _make_shared(shape: Shape, normal: Callable[..., Tensor]) -> SharedExperts:
    H, width = shape.hidden, shape.shared_width
    return SharedExperts(
        shape=shape,
        proj_in=normal((2 if shape.gated else 1) * width, H, scale=1 / math.sqrt(H)),
        down=normal(H, width, scale=1 / math.sqrt(width)),
        gate=normal(1, H, scale=1 / math.sqrt(H)) if shape.shared_gated else None,
    )
