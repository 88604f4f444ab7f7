"""Reading the experts module of a transformers model as a layer.

transformers describes its experts classes by a decorator's words: gated, biased, transposed, concatenated. What the
gate computes is the class's own code; it is tried out on numbers and compared with the activations a shape can have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness.cases.shape import ACTIVATIONS, Shape
from harness.layer.activations import activate
from harness.layer.contract import Layer
from harness.layer.weights import TORCH_DTYPES

PROBE_ROWS, PROBE_SPREAD = 8, 6.0
"""Numbers to try an activation on: some beyond the limits of clamped_swiglu."""


@dataclass(frozen=True)
class Layout:
    """How an experts module keeps its weights, and what it computes from them.

    ``transposed`` weights are (E, in, out). ``interleaved`` gate and up rows take turns. ``dtype`` is a case's word.
    """

    activation: str
    gated: bool
    bias: bool
    transposed: bool
    interleaved: bool
    hidden: int
    expert_hidden: int
    experts: int
    dtype: str

    def shape(self, top_k: int) -> Shape:
        """Return the shape of the layer; how the router chose is not known here."""
        return Shape(
            hidden=self.hidden,
            expert_hidden=self.expert_hidden,
            experts=self.experts,
            top_k=top_k,
            activation=cast("Any", self.activation),
            gated=self.gated,
            bias=self.bias,
        )


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return an experts module's weights by the fields of ``Layer``, in the module's own layout.

    Raises
    ------
    NotImplementedError
        when it keeps them in another way.
    """
    proj_in = "gate_up" if getattr(module, "has_gate", True) else "up"
    names = {proj_in: f"{proj_in}_proj", "down": "down_proj"}
    if getattr(module, "has_bias", False):
        names |= {f"{proj_in}_bias": f"{proj_in}_proj_bias", "down_bias": "down_proj_bias"}
    found = {field: getattr(module, name, None) for field, name in names.items()}
    for field, tensor in found.items():
        dimensions = 2 if field.endswith("_bias") else 3
        if not isinstance(tensor, Tensor) or tensor.dim() != dimensions:
            raise _no(module, f"it keeps no {names[field]} of {dimensions} dimensions")
        if type(tensor) not in {Tensor, nn.Parameter}:
            raise _no(module, f"its {names[field]} is a {type(tensor).__name__}, a plain tensor is needed")
    return cast("dict[str, Tensor]", found)


def read_layout(module: nn.Module) -> Layout:
    """Find out how a module keeps its experts and what they compute.

    Raises
    ------
    NotImplementedError
        in one line, when a ``Layer`` cannot express it.
    """
    _refuse_extras(module)
    weights = weights_of(module)
    gated = "gate_up" in weights
    transposed = bool(getattr(module, "is_transposed", False))
    interleaved = gated and not getattr(module, "is_concatenated", True)
    proj_in, down = (_turned(weights[name], transposed) for name in ("gate_up" if gated else "up", "down"))
    experts, width, hidden = proj_in.shape
    expert_hidden = width // 2 if gated else width
    if tuple(down.shape) != (experts, hidden, expert_hidden):
        raise _no(module, f"its projections are {tuple(proj_in.shape)} in and {tuple(down.shape)} out")
    return Layout(
        activation=_activation(module, width, proj_in.device, gated=gated, interleaved=interleaved),
        gated=gated,
        bias="down_bias" in weights,
        transposed=transposed,
        interleaved=interleaved,
        hidden=hidden,
        expert_hidden=expert_hidden,
        experts=experts,
        dtype=_dtype(module, weights),
    )


def as_layer(weights: dict[str, Tensor], layout: Layout, top_k: int) -> Layer:
    """Return a module's weights as a ``Layer``: themselves, or copies through which gradients flow back to them."""
    laid_out = {}
    for field, tensor in weights.items():
        turned = tensor if field.endswith("_bias") else _turned(tensor, layout.transposed)
        if layout.interleaved and field.startswith("gate_up"):
            turned = torch.cat([turned[:, ::2], turned[:, 1::2]], dim=1)
        laid_out[field] = turned.contiguous()
    absent = dict.fromkeys(("gate_up", "up"))
    return Layer(shape=layout.shape(top_k), **cast("dict[str, Any]", {**absent, **laid_out}))


def _refuse_extras(module: nn.Module) -> None:
    if getattr(module, "has_post_expert_norm", False):
        raise _no(module, "it normalises what every expert returns")
    if getattr(module, "_is_expert_parallel", False):
        raise _no(module, "its experts are spread over devices (expert parallel)")


def _turned(weight: Tensor, transposed: bool) -> Tensor:
    return weight.mT if transposed else weight


def _dtype(module: nn.Module, weights: dict[str, Tensor]) -> str:
    found = {tensor.dtype for tensor in weights.values()}
    words = [word for word, dtype in TORCH_DTYPES.items() if {dtype} == found]
    if not words:
        listed = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise _no(module, f"its weights are {listed}; all must be one of {', '.join(TORCH_DTYPES)}")
    return words[0]


def _activation(module: nn.Module, width: int, device: torch.device, *, gated: bool, interleaved: bool) -> str:
    """Name the activation by what it does to numbers (rows, width): as a shape's do, or nothing we know."""
    numbers = torch.randn(PROBE_ROWS, width, generator=torch.Generator().manual_seed(0)) * PROBE_SPREAD
    numbers = numbers.to(device)
    words = [word for word in ACTIVATIONS if gated or word != "clamped_swiglu"]
    ours = torch.cat([numbers[:, ::2], numbers[:, 1::2]], dim=1) if interleaved else numbers
    theirs = cast("Any", module._apply_gate if gated else module.act_fn)  # noqa: SLF001 (it has no public name)
    with torch.no_grad():
        answer = theirs(numbers)
        for word in words:
            known = activate(ours, word, gated=gated)
            if known.shape == answer.shape and torch.allclose(answer, known, rtol=1e-5, atol=1e-5):
                return word
    raise _no(module, f"its activation is none of {', '.join(words)}")


def _no(module: nn.Module, why: str) -> NotImplementedError:
    return NotImplementedError(f"{type(module).__name__} cannot be computed by moebench: {why}")
